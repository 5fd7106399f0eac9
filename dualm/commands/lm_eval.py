"""`dualm lm-eval ...`: lm-eval's own command line, with the model `dualm`."""

from __future__ import annotations

import argparse

HELP = "lm-eval's own command line, with the model dualm"

PARSER = {"prefix_chars": "\0", "add_help": False}  # none of its options are ours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.lm_eval import command_line

    command_line(arguments.arguments)
