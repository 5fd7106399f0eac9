"""Running a sweep: prepare the data once, train, display, and keep the table up to date; or only estimate the cost."""

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
from dualm.sweep.grid import Point, Sweep, load
from dualm.sweep.labels import count_label
from dualm.sweep.local import Run, with_status
from dualm.sweep.screen import Screen
from dualm.sweep.sections import Slurm
from dualm.training.cost import Cost, cost


def run_sweep(path: Path, overrides: Sequence[str], only: str | None, parallel: int | None, executor: str) -> int:
    """Run the sweep in the file `path` to its end, or continue it; or submit its runs to Slurm. Returns the exit code.

    Raises:
        UserError: a mistake in the sweep, its data or its folder, before anything is trained.
    """
    sweep = load(path, overrides)
    points = select(sweep, only)
    costs = costs_of(sweep.points, ranks(sweep, executor))
    if sweep.tasks:
        scores.check(sweep.tasks)
    stopped = None
    with os.fdopen(folder.enter(sweep), "w"):  # the end of this block releases the lock
        queue = slurm.executor_for(sweep, parallel or sweep.parallel or len(points)) if executor == "slurm" else None
        prepare(points)
        runs = local.runs_of(sweep, points, {name: each.flops for name, each in costs.items()})
        if queue:
            slurm.submit(queue, sweep, runs)
        else:
            with Screen(sweep.dir, runs) as screen:
                stopped = local.execute(runs, at_once(sweep, parallel), screen.show)
        results.write(sweep.dir)
    return conclude(sweep, runs, stopped)


def select(sweep: Sweep, only: str | None) -> list[Point]:
    chosen = [point for point in sweep.points if only is None or fnmatch(point.name, only)]
    if not chosen:
        names = ", ".join(point.name for point in sweep.points[:3])
        raise UserError(f"--only: got {only!r}, expected a pattern of names such as {names}")
    return chosen


def ranks(sweep: Sweep, executor: str) -> int:
    """The number of GPUs (or processes on CPU) of one run."""
    return (sweep.slurm or Slurm()).ranks if executor == "slurm" else 1


def costs_of(points: Sequence[Point], ranks: int) -> dict[str, Cost]:
    """The cost of each point on `ranks` ranks, by name. Raises UserError for a point that `train` would refuse."""
    costs = {}
    for point in points:
        try:
            costs[point.name] = cost(point.recipe, ranks)
        except UserError as error:
            raise UserError(f"point {point.name}: {error}") from None
    return costs


def at_once(sweep: Sweep, parallel: int | None) -> int:
    """The number of runs at a time on this machine: `parallel`, else that of the sweep, else one per GPU or core."""
    return parallel or sweep.parallel or len(local.visible_gpus()) or local.cores()


def prepare(points: Sequence[Point]) -> None:
    """Make the token shards that the points need, each once. Raises UserError if a point needs more text than there is."""
    from dualm.data.prepare import prepare, source_keys
    from dualm.data.shards import Shards
    from dualm.plan.passes import available

    made: dict[str, Shards] = {}
    for point in points:
        data, model = point.recipe.data, point.recipe.model
        key = repr([data.dir, model.vocab, source_keys(data, model.vocab)])
        if key not in made:
            made[key] = Shards.open(prepare(data, model.vocab), verify=False)
        try:
            Budget.of(point.recipe).check_fits(available(point.recipe, made[key]))
        except UserError as error:
            raise UserError(f"point {point.name}: {error}") from None


def conclude(sweep: Sweep, runs: Sequence[Run], stopped: int | None) -> int:
    """Report how the sweep ended, with the end of the log of every failed run; returns the exit code."""
    finished, failed = (with_status(runs, status) for status in ("finished", "failed"))
    print(f"{len(finished)} of {len(runs)} runs finished; results: {sweep.dir / 'results.csv'}, .parquet")
    for run in failed:
        print(f"{run.point.name} failed {local.ATTEMPTS} times; the end of {run.log}:", file=sys.stderr)
        print(run.end_of_log(), file=sys.stderr)
    if stopped is not None:
        print("stopped by a signal; the same command continues the sweep", file=sys.stderr)
        return 128 + stopped
    return 1 if failed else 0


def dry_run(
    path: Path, overrides: Sequence[str], only: str | None, parallel: int | None, executor: str, flops: float
) -> RenderableType:
    """The runs of the sweep in their order, with their cost; `flops` is the FLOP/s that one GPU (or core) sustains."""
    sweep = load(path, overrides)
    points, ranks_per_run = select(sweep, only), ranks(sweep, executor)
    costs = costs_of(points, ranks_per_run)
    side_by_side = parallel or sweep.parallel or len(points) if executor == "slurm" else at_once(sweep, parallel)
    per_hour, total = flops * ranks_per_run * 3600, sum(each.flops for each in costs.values())
    table = Table(title=f"{path}: {len(points)} runs", box=box.SIMPLE_HEAD, title_justify="left", show_footer=True)
    gpus = f", {ranks_per_run} GPUs each" if ranks_per_run > 1 else ""
    table.add_column("run", footer=f"{side_by_side} at a time{gpus}", overflow="fold")
    for heading in ("parameters", "unique", "AR / MD exposures"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("FLOPs", footer=f"{total:.1e}", justify="right", no_wrap=True)
    table.add_column("hours", footer=f"{total / per_hour / side_by_side:,.3g}", justify="right", no_wrap=True)
    for name, each in costs.items():
        table.add_row(
            name,
            count_label(each.parameters_without_embedding),
            count_label(each.budget.unique_tokens),
            f"{each.ar_exposures:.4g} / {each.md_exposures:.4g}",
            f"{each.flops:.1e}",
            f"{each.flops / per_hour:,.3g}",
        )
    return table
