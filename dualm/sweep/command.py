"""`dualm sweep` and `dualm results`: prepare once, run, show, and keep the table up to date."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from dualm.errors import UserError
from dualm.plan.budget import Budget
from dualm.sweep import folder, local, results, scores, slurm
from dualm.sweep.grid import Point, Sweep, load, short
from dualm.sweep.sections import Slurm
from dualm.training.cost import Cost, cost

PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal
SHOWN = ("train/ar_loss", "train/md_loss", "valid/ar_nll", "valid/md_nelbo")


def sweep(path: Path, overrides: Sequence[str], only: str | None, parallel: int | None, executor: str) -> int:
    """Run the sweep in file `path` to its end, or go on with it; or hand its runs in to Slurm. Returns the exit code.

    Raises:
        UserError: what is wrong with the sweep, its data or its folder; before anything is trained.
    """
    whole = load(path, overrides)
    points = select(whole, only)
    costs = costs_of(whole.points, ranks(whole, executor))
    if whole.tasks:
        scores.check(whole.tasks)
    stopped = None
    with os.fdopen(folder.enter(whole), "w"):  # the lock is free again at the end of this block
        queue = slurm.executor_for(whole, parallel or whole.parallel or len(points)) if executor == "slurm" else None
        prepare(points)
        tasks = local.tasks(whole, points, {name: each.flops for name, each in costs.items()})
        if queue:
            slurm.submit(queue, whole, tasks)
        else:
            with Screen(whole.dir, tasks) as screen:
                stopped = local.execute(tasks, at_once(whole, parallel), screen.show)
        results.write(whole.dir)
    return conclude(whole, tasks, stopped)


def select(whole: Sweep, only: str | None) -> list[Point]:
    chosen = [point for point in whole.points if only is None or fnmatch(point.name, only)]
    if not chosen:
        names = ", ".join(point.name for point in whole.points[:3])
        raise UserError(f"--only: got {only!r}, expected a pattern of names such as {names}")
    return chosen


def ranks(whole: Sweep, executor: str) -> int:
    """How many GPUs (or processes on CPU) share a run."""
    return (whole.slurm or Slurm()).ranks if executor == "slurm" else 1


def costs_of(points: Sequence[Point], ranks: int) -> dict[str, Cost]:
    """What each point costs on so many ranks, by name. Raises UserError for one that `train` would refuse."""
    costs = {}
    for point in points:
        try:
            costs[point.name] = cost(point.recipe, ranks)
        except UserError as error:
            raise UserError(f"point {point.name}: {error}") from None
    return costs


def at_once(whole: Sweep, parallel: int | None) -> int:
    """How many runs at a time here: as asked for, else as the sweep says, else one per GPU, else one per core."""
    return parallel or whole.parallel or len(local.visible_gpus()) or local.cores()


def prepare(points: Sequence[Point]) -> None:
    """Make the shards that the points need, each once, and refuse points that ask for more text than there is."""
    from dualm.data.prepare import prepare, source_keys
    from dualm.data.shards import Shards, TokenStream
    from dualm.data.windows import open_windows

    made: dict[str, TokenStream] = {}
    for point in points:
        data, model = point.recipe.data, point.recipe.model
        key = repr([data.dir, model.vocab, source_keys(data, model.vocab)])
        if key not in made:
            made[key] = Shards.open(prepare(data, model.vocab), verify=False).train
        try:
            Budget.of(point.recipe).check_fits(len(open_windows(data, made[key], model.context)))
        except UserError as error:
            raise UserError(f"point {point.name}: {error}") from None


def conclude(whole: Sweep, tasks: Sequence[local.Task], stopped: int | None) -> int:
    """Say how it ended, and show the end of the log of every failed run; the exit code."""
    counts = {status: sum(task.status == status for task in tasks) for status in ("finished", "failed")}
    print(f"{counts['finished']} of {len(tasks)} runs finished; results: {whole.dir / 'results.csv'}, .parquet")
    for task in (task for task in tasks if task.status == "failed"):
        print(f"{task.point.name} failed {local.ATTEMPTS} times; the end of {task.log}:", file=sys.stderr)
        print(task.last_words(), file=sys.stderr)
    if stopped is not None:
        print("stopped by a signal; the same command goes on", file=sys.stderr)
        return 128 + stopped
    return 1 if counts["failed"] else 0


# ---------------------------------------------------------------- what it looks like


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
    losses = " ".join(f"{name} {task.progress.losses[name]:.3f}" for name in SHOWN[:2] if name in task.progress.losses)
    return f"{task.point.name} {task.progress.step}/{task.progress.steps} {losses}"


def eta(tasks: Sequence[local.Task], elapsed: float) -> str:
    """How long the rest takes at the rate of floating-point operations so far, start-up and validation included."""
    done = sum(task.flops * (task.progress.share - task.begun_at) for task in tasks)
    left = sum(task.flops * (1 - task.progress.share) for task in tasks if task.status in ("waiting", "running"))
    return str(timedelta(seconds=round(left * elapsed / done))) if done > 0 else "unknown"


# ---------------------------------------------------------------- the plan


def plan(
    path: Path, overrides: Sequence[str], only: str | None, parallel: int | None, executor: str, flops: float
) -> RenderableType:
    """What the sweep would train, in its order, and what that costs; `flops` is what a GPU (or a core) sustains a second."""
    whole = load(path, overrides)
    points, each = select(whole, only), ranks(whole, executor)
    costs = costs_of(points, each)
    side_by_side = parallel or whole.parallel or len(points) if executor == "slurm" else at_once(whole, parallel)
    rate, total = flops * each * 3600, sum(cost.flops for cost in costs.values())
    table = Table(title=f"{path}: {len(points)} runs", box=box.SIMPLE_HEAD, title_justify="left", show_footer=True)
    headings = ("parameters", "unique", "AR / MD exposures", "FLOPs", "hours")
    footers = ("", "", "", f"{total:.1e}", f"{total / rate / side_by_side:,.3g}")
    share = f", {each} GPUs each" if each > 1 else ""
    table.add_column("run", footer=f"{side_by_side} at a time{share}", overflow="fold")
    for heading, footer in zip(headings, footers, strict=True):
        table.add_column(heading, footer=footer, justify="right", no_wrap=True)
    for name, run in costs.items():
        table.add_row(
            name,
            short(run.parameters_without_embedding),
            short(run.budget.unique_tokens),
            f"{run.ar_exposures:.4g} / {run.md_exposures:.4g}",
            f"{run.flops:.1e}",
            f"{run.flops / rate:,.3g}",
        )
    return table
