"""What a sweep looks like while it runs."""

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
from dualm.sweep import local, results

PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal
TRAINED = ("train/ar_loss", "train/md_loss")
SHOWN = (*TRAINED, READINGS["ar"].metric, READINGS["md"].metric)


class Screen:
    """The state of all runs: a live table on a terminal, otherwise a line every ten seconds."""

    def __init__(self, dir: Path, tasks: Sequence[local.Task]):
        self.dir, self.tasks = dir, tasks
        self.since = self.said = time.monotonic()
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
        elif changed or time.monotonic() - self.said >= PLAIN_EVERY:
            self.said = time.monotonic()
            print(f"{self.summary()}  {'; '.join(map(line, self._that_are('running')))}", file=sys.stderr, flush=True)

    def table(self) -> RenderableType:
        table = Table(title=self.summary(), box=box.SIMPLE_HEAD, title_justify="left")
        for heading in ("run", "status", "step", *SHOWN):
            on_two_lines = heading.replace("/", "\n")  # fits 80 columns
            table.add_column(on_two_lines, justify="left" if heading in ("run", "status") else "right", no_wrap=True)
        finished = self._that_are("finished")[-5:]
        for task in [*self._that_are("failed"), *finished, *self._that_are("stopped"), *self._that_are("running")]:
            how_far = task.progress
            losses = (f"{how_far.losses[name]:.3f}" if name in how_far.losses else "" for name in SHOWN)
            table.add_row(task.point.name, task.status, f"{how_far.step:,}/{how_far.steps:,}", *losses)
        return table

    def summary(self) -> str:
        counts = {name: len(self._that_are(name)) for name in ("finished", "running", "failed")}
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"{len(self.tasks)} runs: {told}; ETA {eta(self.tasks, time.monotonic() - self.since)}"

    def _that_are(self, status: str) -> list[local.Task]:
        return [task for task in self.tasks if task.status == status]


def line(task: local.Task) -> str:
    losses = " ".join(f"{name} {task.progress.losses[name]:.3f}" for name in TRAINED if name in task.progress.losses)
    return f"{task.point.name} {task.progress.step}/{task.progress.steps} {losses}"


def eta(tasks: Sequence[local.Task], elapsed: float) -> str:
    """How long the rest takes at the rate of floating-point operations so far, start-up and validation included."""
    done = sum(task.flops * (task.progress.share - task.begun_at) for task in tasks)
    left = sum(task.flops * (1 - task.progress.share) for task in tasks if task.status in ("waiting", "running"))
    return str(timedelta(seconds=round(left * elapsed / done))) if done > 0 else "unknown"
