"""`dualm train RECIPE [key=value ...]`: train, or resume, a run."""

from __future__ import annotations

import argparse

from rich.console import Console

from dualm.commands.options import add_recipe, is_first_rank
from dualm.config import load

HELP = "train the recipe, or resume its run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from the newest checkpoint"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="write a trace and a table by operator of three early steps to <run.dir>/profile, and go on training",
    )


def run(arguments: argparse.Namespace) -> None:
    from dualm.commands.show import run_summary
    from dualm.training.loop import train

    folder = train(load(arguments.recipe, arguments.overrides), arguments.resume, arguments.profile)
    if is_first_rank():
        Console().print(run_summary(folder))
