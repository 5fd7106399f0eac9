"""`dualm export RUN --to DIR`: the model as a folder that Hugging Face transformers loads."""

from __future__ import annotations

import argparse

from dualm.commands.options import add_run

HELP = "write the model of a run as a folder that Hugging Face transformers loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--to", required=True, metavar="DIR", help="the new folder")


def run(arguments: argparse.Namespace) -> None:
    from dualm.interop.export import export

    print(export(arguments.run, arguments.to))
