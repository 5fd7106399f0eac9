"""The command line: every command is a thin call into the package.

dualm prepare RECIPE [key=value ...]            corpus -> tokenizer -> token shards
dualm train RECIPE [key=value ...]              train, or resume, a run
dualm plan RECIPE [key=value ...]               what it would cost, without doing it
dualm show RUN                                  the last validation and samples of a run
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dualm import __version__
from dualm.config import load
from dualm.errors import UserError


def prepare(arguments: argparse.Namespace) -> None:
    from dualm.data.prepare import prepare

    recipe = load(arguments.recipe, arguments.overrides)
    print(prepare(recipe.data, recipe.model.vocab))


def train(arguments: argparse.Namespace) -> None:
    from dualm.summary import run_summary
    from dualm.training.loop import train

    run = train(load(arguments.recipe, arguments.overrides), arguments.resume)
    if _is_first_rank():
        Console().print(run_summary(run))


def plan(arguments: argparse.Namespace) -> None:
    from dualm.summary import plan_summary
    from dualm.training.cost import cost

    recipe = load(arguments.recipe, arguments.overrides)
    Console().print(plan_summary(arguments.recipe, cost(recipe, arguments.gpus), arguments.gpus, arguments.flops))


def show(arguments: argparse.Namespace) -> None:
    from dualm.summary import run_summary

    Console().print(run_summary(Path(arguments.run)))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("dualm", description="Train one transformer as AR model and masked diffusion model.")
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--local_rank", help=argparse.SUPPRESS)  # from the deepspeed launcher; LOCAL_RANK is what counts
    commands = top.add_subparsers(required=True, metavar="command")

    def command(action, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = commands.add_parser(action.__name__, help=text, description=text)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(action=action)
        return sub

    def recipe_command(action, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = command(action, text)
        sub.add_argument("recipe", help="a YAML file such as recipes/quickstart.yaml")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of the recipe, anywhere")
        return sub

    recipe_command(prepare, "make token shards of the recipe's corpus")
    trainer = recipe_command(train, "train the recipe, or resume its run")
    trainer.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from the newest checkpoint"
    )
    planner = recipe_command(plan, "say what the recipe costs, without training")
    planner.add_argument("--gpus", type=int, default=1, help="ranks that share the work (default 1)")
    planner.add_argument("--flops", type=float, default=4e14, help="FLOP/s that one GPU sustains (default 4e14)")
    command(show, "print the last validation and samples of a run").add_argument("run", help="a run directory")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. A user's error is one line on stderr and exit code 2."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-") or "overrides" not in arguments]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:  # overrides that follow an option
        arguments.overrides += rest
    try:
        arguments.action(arguments)
    except (UserError, OSError) as error:
        if arguments.debug or not _is_the_users(error):
            raise
        if _is_first_rank():
            print(f"dualm: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _is_the_users(error: Exception) -> bool:
    return isinstance(error, UserError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)


def _one_line(error: Exception) -> str:
    return (
        f"{error.filename or 'disk'}: {error.strerror}" if isinstance(error, OSError) else " ".join(str(error).split())
    )


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"
