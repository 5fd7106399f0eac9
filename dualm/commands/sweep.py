"""`dualm sweep SWEEP.yaml [key=value ...]`: train every point of a sweep, or continue it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dualm.commands.options import check_least

HELP = "train every point of a sweep, or continue it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", help="a YAML file such as sweeps/repetition-50-cpu.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of every point's recipe; run.dir=DIR sets the folder of the sweep, tasks.data=DIR that of its benchmarks",
    )
    parser.add_argument("--only", metavar="PATTERN", help="train only the points with matching names, such as 'R128-*'")
    parser.add_argument("--dry-run", action="store_true", help="list the points and their cost, train nothing")
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="runs at a time (default: that of the sweep, else one per GPU, else one per core)",
    )
    parser.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="this machine (default) or Slurm"
    )
    parser.add_argument(
        "--flops", type=float, default=4e14, help="with --dry-run: FLOP/s that one GPU sustains (default 4e14)"
    )


def run(arguments: argparse.Namespace) -> None:
    from dualm.sweep.run import dry_run, run_sweep

    check_least(arguments, parallel=1)
    path, only, parallel = Path(arguments.sweep), arguments.only, arguments.parallel
    if arguments.dry_run:
        Console().print(dry_run(path, arguments.overrides, only, parallel, arguments.executor, arguments.flops))
    else:
        sys.exit(run_sweep(path, arguments.overrides, only, parallel, arguments.executor))
