"""`dualm analyze DIR`: overfitting, the best alpha and scaling, from the results table of a sweep to tables and a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dualm.errors import UserError

HELP = "analyse the results of a sweep: overfitting, best alpha, scaling"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="DIR", help="the folder of a sweep, or a results table (.parquet or .csv)")
    parser.add_argument(
        "--suggest", type=int, default=0, metavar="N", help="also write the N most informative runs to train next"
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="what to fit and to test: a reading or score (ar, average/pll), a family (loss, average, blimp) or a column valid/...; "
        "may be repeated (default: everything there is)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the tables (default: DIR/analysis)")


def run(arguments: argparse.Namespace) -> None:
    if arguments.suggest < 0:
        raise UserError(f"--suggest: got {arguments.suggest}, expected a number of runs")
    folder = Path(arguments.sweep)
    default = (folder if folder.is_dir() else folder.parent) / "analysis"
    analyze_into(folder, Path(arguments.out) if arguments.out else default, arguments.suggest, arguments.target)


def analyze_into(folder: Path, out: Path, suggestions: int, wanted: Sequence[str]) -> None:
    """Analyse the sweep in `folder` into `out`. Raises UserError if there is nothing to analyse."""
    from dualm.analysis.analyze import analyze_sweep, write
    from dualm.analysis.report import write_report
    from dualm.analysis.suggest import suggest_points, write_points
    from dualm.analysis.tables import summary
    from dualm.sweep.results import load_results

    sweep = analyze_sweep(load_results(folder), wanted)
    write(sweep, out)
    Console().print(summary(sweep))
    if suggestions:
        write_points(suggest_points(sweep, suggestions), out / "suggested.yaml")
        print(f"runs to train next: {out / 'suggested.yaml'}")
    print(f"results: {out / 'analysis.json'} and CSV tables beside it")
    print(f"report: {write_report(sweep, out)}, its figures as PNG and PDF: {out / 'figures'}")
