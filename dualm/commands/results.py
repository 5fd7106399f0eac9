"""`dualm results DIR`: rebuild the table of a sweep's runs from their directories."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "rebuild the table of a sweep's runs from their directories"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="DIR", help="the folder of a sweep")


def run(arguments: argparse.Namespace) -> None:
    from dualm.sweep.results import write

    table, notes = write(Path(arguments.sweep))
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    print(f"{len(table)} rows of {table['run'].nunique()} runs: {Path(arguments.sweep) / 'results.parquet'}, .csv")
