"""Arguments that several commands share, each with one meaning."""

from __future__ import annotations

import argparse
import os

from dualm.errors import UserError


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file such as recipes/quickstart.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override keys of the recipe (`dualm keys` lists them), anywhere",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory, a checkpoint or an exported folder")


def add_batch(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--batch",
        type=int,
        default=default,
        help=f"sequences of full context that go through the network at once, or as many more as are shorter "
        f"(default {default}); changes speed and memory, and numbers by rounding only",
    )


def add_device(parser: argparse.ArgumentParser, precision: bool = True) -> None:
    parser.add_argument("--device", help="such as cuda or cpu (default: the first GPU, if there is one)")
    if precision:
        parser.add_argument("--precision", default="fp32", help="fp32, or bf16: autocast (default fp32)")


def is_first_rank() -> bool:
    """Whether this process speaks for all ranks of its launcher."""
    return os.environ.get("RANK", "0") == "0"


def check_least(arguments: argparse.Namespace, **least: int) -> None:
    """Refuse a number below its least value. Raises UserError."""
    for name, low in least.items():
        value = getattr(arguments, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')}: got {value}, expected at least {low}")
