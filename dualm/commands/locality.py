"""`dualm locality RUN --text FILE`: loss of masked tokens by their distance to the nearest visible token."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dualm.commands.options import add_batch, add_device, add_run, check_least

HELP = "loss of masked tokens by their distance to the nearest visible token"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--text", required=True, metavar="FILE", help="a text file")
    parser.add_argument("--draws", type=int, default=4, help="masks per window, at stratified rates (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="decides the masks (default 0)")
    add_batch(parser, 32)
    add_device(parser, precision=False)
    parser.add_argument("--out", metavar="FILE", help="write the table as CSV")


def run(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.locality import locality, locality_table, write
    from dualm.language_model import LanguageModel

    check_least(arguments, draws=1, batch=1)
    model = LanguageModel.load(arguments.run, arguments.device)
    bins = locality(model, Path(arguments.text), arguments.draws, arguments.seed, arguments.batch)
    Console().print(locality_table(bins, f"{arguments.run}: masked tokens of {arguments.text}, nats per token"))
    if arguments.out:
        write(bins, Path(arguments.out))
