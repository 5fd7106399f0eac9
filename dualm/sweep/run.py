"""Running a sweep: prepare once, run, show, and keep the table up to date; or say what it would cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table

from dualm.errors import UserError
from dualm.plan.budget import Budget
from dualm.sweep import folder, local, results, scores, slurm
from dualm.sweep.grid import Point, Sweep, load, short
from dualm.sweep.screen import Screen
from dualm.sweep.sections import Slurm
from dualm.training.cost import Cost, cost


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
