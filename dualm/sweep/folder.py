"""The folder of a sweep, and the progress of each run in it, known from files alone.

runs/small/
    sweep.yaml               the axes, the points and the recipe that they share
    recipes/R1-a0-s0.yaml    the recipe given to `dualm train`
    runs/R1-a0-s0/           a run directory
    logs/R1-a0-s0.log        the output of the run
    results.parquet .csv     the table of all runs
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dualm import config, files, runs
from dualm.config import Recipe
from dualm.errors import UserError
from dualm.plan.budget import Budget
from dualm.sweep.grid import DIR, SEED, Sweep

DEFINITION = "sweep.yaml"
# Recipe keys that may change between two starts of one sweep, because its numbers do not depend on them.
HARMLESS = ("train.log_every", "train.prefetch", "model.checkpointing", "checkpoint.", "data.dir")


def enter(sweep: Sweep) -> int:
    """Make the sweep's folder, or open that of the same sweep; returns the descriptor that holds its lock.

    Points may be added to a sweep. Everything else must stay the same.

    Raises:
        UserError: the folder belongs to another sweep or to no sweep, is not writable, or is in use by another process.
    """
    folder, definition = sweep.dir, sweep.dir / DEFINITION
    wanted = define(sweep)
    if definition.exists():
        _check_same(folder, read_definition(folder), wanted)
    elif folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(
            f"dir: {folder} is not empty and holds no {DEFINITION}, expected a new folder or that of a sweep"
        )
    try:
        for name in ("recipes", "runs", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lock = files.lock(folder / ".lock")
        if lock is None:
            raise UserError(f"dir: another process is sweeping in {folder}, expected none")
        for point in sweep.points:
            files.write_text(folder / "recipes" / f"{point.name}.yaml", config.dump(point.recipe))
        files.write_text(definition, OmegaConf.to_yaml(OmegaConf.create(wanted)))
    except OSError as error:
        raise UserError(f"dir: cannot write to {folder}: {error.strerror}") from None
    return lock


def define(sweep: Sweep) -> dict[str, Any]:
    """What identifies the sweep: the recipe that all points share, by dotted key, and each point's own values.

    `tasks` identifies nothing: the benchmarks of its average.
    """
    fixed = config.flatten(sweep.points[0].recipe)
    return {
        "axes": list(sweep.axes),
        "recipe": {key: value for key, value in fixed.items() if key not in (*sweep.axes, SEED, DIR)},
        "points": {point.name: point.values for point in sweep.points},
        "tasks": list(sweep.tasks.settings().names) if sweep.tasks else [],
    }


def read_definition(folder: Path) -> dict[str, Any]:
    """The definition (see `define`) of the sweep in `folder`. Raises UserError if it is not the folder of a sweep."""
    path = folder / DEFINITION
    if not path.is_file():
        raise UserError(f"{folder}: holds no {DEFINITION}, expected the folder of a sweep")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        found = {name: content[name] for name in ("axes", "recipe", "points")}  # type: ignore[index]
        return {**found, "tasks": content.get("tasks", [])}  # of the average; older versions wrote none
    except Exception as error:  # the YAML library raises many types of exception
        raise UserError(f"{path}: not a sweep's definition: {' '.join(str(error).split())}") from None


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    expected = "expected the same one or another folder"
    for key in {**old["recipe"], **new["recipe"]}:
        before, after = (sweep["recipe"].get(key, "an axis") for sweep in (old, new))
        if before != after and not key.startswith(HARMLESS):
            raise UserError(f"dir: {folder} holds another sweep ({key} was {before!r}, is now {after!r}), {expected}")
    removed = [name for name in old["points"] if name not in new["points"]]
    if removed:
        raise UserError(f"dir: {folder} holds another sweep (point {removed[0]} is in it, not in this one), {expected}")


# ---------------------------------------------------------------- progress of a run


@dataclass(frozen=True)
class Progress:
    step: int  # the last one reported
    steps: int
    finished: bool
    losses: dict[str, float]  # the last reported losses, by metric

    @property
    def fraction(self) -> float:
        return 1.0 if self.finished else self.step / self.steps


def progress(run: Path, recipe: Recipe) -> Progress:
    """The progress of the run of `recipe` in the directory `run`."""
    steps, rows = Budget.of(recipe).steps, runs.read_metrics(run)
    losses = {
        name: value
        for row in rows
        for name, value in row.items()
        if name.startswith(("train/", "valid/")) and isinstance(value, float)
    }
    return Progress(rows[-1]["step"] if rows else 0, steps, is_finished(run, rows, steps), losses)


def is_finished(run: Path, rows: list[dict[str, Any]], steps: int) -> bool:
    """Whether the checkpoint and the validation of the last step exist."""
    folders = runs.checkpoints(run)
    saved = bool(folders) and folders[-1].name == f"step-{steps:06d}"
    return saved and any(row["step"] == steps and runs.is_validation(row) for row in rows)


def is_locked(run: Path) -> bool:
    """Whether a process is training in `run` now."""
    if not (run / ".lock").exists():
        return False
    held = files.lock(run / ".lock")
    if held is None:
        return True
    os.close(held)
    return False
