"""`dualm sweep SWEEP.yaml [key=value ...]`: train every point of a sweep, or go on with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dualm.commands.options import check_least

HELP = "train every point of a sweep, or go on with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", help="a YAML file such as sweeps/repetition-50-cpu.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of every point's recipe; run.dir=DIR: the sweep's folder",
    )
    parser.add_argument("--only", metavar="PATTERN", help="the points of such names alone, for instance 'R128-*'")
    parser.add_argument("--dry-run", action="store_true", help="list the points and their cost, train nothing")
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="runs at a time (default: the sweep's, else one per GPU, else per core)",
    )
    parser.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="where: here (default), or through Slurm"
    )
    parser.add_argument(
        "--flops", type=float, default=4e14, help="with --dry-run: FLOP/s that one GPU sustains (default 4e14)"
    )


def run(arguments: argparse.Namespace) -> None:
    from dualm.sweep.run import plan, sweep

    check_least(arguments, parallel=1)
    path, only, parallel = Path(arguments.sweep), arguments.only, arguments.parallel
    if arguments.dry_run:
        Console().print(plan(path, arguments.overrides, only, parallel, arguments.executor, arguments.flops))
    else:
        sys.exit(sweep(path, arguments.overrides, only, parallel, arguments.executor))
