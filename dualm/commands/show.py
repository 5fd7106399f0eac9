"""`dualm show RUN`: the last validation and samples of a run, made from its directory alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dualm.errors import UserError
from dualm.runs import is_validation, read_metrics

HELP = "print the last validation and samples of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")


def run(arguments: argparse.Namespace) -> None:
    Console().print(run_summary(Path(arguments.run)))


def run_summary(run: Path) -> RenderableType:
    """The last validation of `run` as a table, and its last text samples. Raises UserError if it is no run."""
    if not (run / "recipe.yaml").exists():
        raise UserError(f"{run}: holds no recipe.yaml, expected a run directory")
    from dualm.evaluation import readings

    validated = [row for row in read_metrics(run) if is_validation(row)]
    if not validated:
        return Text(f"{run}: no validation yet")
    last = validated[-1]
    table = Table(
        title=f"validation after step {last['step']}, {last['tokens']:,} tokens",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("reading")
    for heading in ("nats/token", "± s.e.", "bits/byte"):
        table.add_column(heading, justify="right")
    for metric, label, bits in readings.table(last):
        table.add_row(label, f"{last[metric]:.3f}", f"{last[metric + '_se']:.3f}", f"{last[bits]:.3f}")
    samples = [
        part
        for mode, text in _last_samples(run).items()
        for part in (Text(f"{mode} sample", "bold"), Padding(Text(text), (0, 2, 1, 2)))
    ]
    return Group(table, *samples, Text(f"run directory: {run}", "bold"))


def _last_samples(run: Path) -> dict[str, str]:
    path = run / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["mode"]: row["text"] for row in rows}
