"""The display of a running sweep."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from dualm.evaluation.readings import READINGS
from dualm.objectives import HALVES, OBJECTIVES
from dualm.sweep import results
from dualm.sweep.local import Run, with_status

PLAIN_EVERY = 10.0  # seconds between two lines if there is no terminal
TRAINED = tuple(dict.fromkeys(f"train/{entry.metric}" for entry in OBJECTIVES.values() if entry.share is None))
SHOWN = (*TRAINED, *(READINGS[half].metric for half in HALVES))  # a training and a validation loss per objective


class Screen:
    """The status of all runs: a live table on a terminal, otherwise a line every ten seconds."""

    def __init__(self, dir: Path, runs: Sequence[Run]):
        self.dir, self.runs = dir, runs
        self.started = self.printed = time.monotonic()
        console = Console(stderr=True)
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Screen:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, changed: bool) -> None:
        if changed:
            results.write(self.dir)
        if self.live:
            self.live.update(self.table(), refresh=True)
        elif changed or time.monotonic() - self.printed >= PLAIN_EVERY:
            self.printed = time.monotonic()
            running = "; ".join(map(line, with_status(self.runs, "running")))
            print(f"{self.summary()}  {running}", file=sys.stderr, flush=True)

    def table(self) -> RenderableType:
        table = Table(title=self.summary(), box=box.SIMPLE_HEAD, title_justify="left")
        for heading in ("run", "status", "step", *SHOWN):
            on_two_lines = heading.replace("/", "\n")  # fits 80 columns
            table.add_column(on_two_lines, justify="left" if heading in ("run", "status") else "right", no_wrap=True)
        failed, finished, stopped, running = (
            with_status(self.runs, status) for status in ("failed", "finished", "stopped", "running")
        )
        for run in [*failed, *finished[-5:], *stopped, *running]:
            progress = run.progress
            losses = (f"{progress.losses[name]:.3f}" if name in progress.losses else "" for name in SHOWN)
            table.add_row(run.point.name, run.status, f"{progress.step:,}/{progress.steps:,}", *losses)
        return table

    def summary(self) -> str:
        counts = (f"{len(with_status(self.runs, name))} {name}" for name in ("finished", "running", "failed"))
        remaining = eta(self.runs, time.monotonic() - self.started)
        return f"{len(self.runs)} runs: {', '.join(counts)}; ETA {remaining}"


def line(run: Run) -> str:
    progress = run.progress
    losses = " ".join(f"{name} {progress.losses[name]:.3f}" for name in TRAINED if name in progress.losses)
    return f"{run.point.name} {progress.step}/{progress.steps} {losses}"


def eta(runs: Sequence[Run], elapsed: float) -> str:
    """The remaining time at the FLOPs per second of the `elapsed` seconds, which include start-up and validation."""
    done = sum(run.flops * (run.progress.fraction - run.begun_at) for run in runs)
    left = sum(run.flops * (1 - run.progress.fraction) for run in runs if run.status in ("waiting", "running"))
    return str(timedelta(seconds=round(left * elapsed / done))) if done > 0 else "unknown"
