"""`dualm evaluate RUN`: scores on benchmarks, perplexity of texts, or how often the responses to prompts are right."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dualm.commands.options import add_batch, add_device, add_run, check_least
from dualm.evaluation.evaluate import add_arguments as add_kinds
from dualm.evaluation.evaluate import evaluate
from dualm.evaluation.kind import add_scoring

HELP = "score a model on benchmarks or answers to prompts, or measure its perplexity on texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_kinds(parser)
    add_scoring(parser.add_argument_group("how the model is read"))
    parser.add_argument(
        "--limit", type=int, help="documents per benchmark, subtask or data set, prompts per file (default: all)"
    )
    add_batch(parser, 8)
    add_device(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: RUN/evaluation)")


def run(arguments: argparse.Namespace) -> None:
    check_least(arguments, batch=1)
    with Console(file=sys.stderr).status("reading the inputs and the model") as status:
        table, written = evaluate(
            arguments, status.update, lambda line: status.console.print(line, soft_wrap=True, highlight=False)
        )
    Console().print(table)
    if written:
        print(f"results: {written}.json, .csv")
