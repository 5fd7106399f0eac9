"""The sweep's folder, and how far each run in it is: known from files alone.

runs/small/
    sweep.yaml               the axes and points, the recipe they share
    recipes/R1-a0-s0.yaml    what `dualm train` is called with
    runs/R1-a0-s0/           a run directory
    logs/R1-a0-s0.log        what the run said
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
# What may change between two starts of one sweep without changing its numbers.
HARMLESS = ("train.log_every", "train.prefetch", "model.checkpointing", "checkpoint.", "data.dir")


def enter(sweep: Sweep) -> int:
    """Make the sweep's folder, or enter one of this very sweep; returns the descriptor that holds its lock.

    Points may be added to a sweep, and everything else stays.

    Raises:
        UserError: the folder is another sweep's, no sweep's, not writable, or another process sweeps in it.
    """
    folder, definition = sweep.dir, sweep.dir / DEFINITION
    asked = define(sweep)
    if definition.exists():
        _check_same(folder, read_definition(folder), asked)
    elif folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(f"dir: {folder} is not empty and holds no {DEFINITION}, expected a new or a sweep's folder")
    try:
        for name in ("recipes", "runs", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lock = files.lock(folder / ".lock")
        if lock is None:
            raise UserError(f"dir: another process is sweeping in {folder}, expected none")
        for point in sweep.points:
            files.write_text(folder / "recipes" / f"{point.name}.yaml", config.dump(point.recipe))
        files.write_text(definition, OmegaConf.to_yaml(OmegaConf.create(asked)))
    except OSError as error:
        raise UserError(f"dir: cannot write to {folder}: {error.strerror}") from None
    return lock


def define(sweep: Sweep) -> dict[str, Any]:
    """What makes the sweep this one: the recipe all points share, by dotted key, and each point's own values."""
    fixed = config.flatten(sweep.points[0].recipe)
    return {
        "axes": list(sweep.axes),
        "recipe": {key: value for key, value in fixed.items() if key not in (*sweep.axes, SEED, DIR)},
        "points": {point.name: point.values for point in sweep.points},
    }


def read_definition(folder: Path) -> dict[str, Any]:
    """What `define` said of the sweep in `folder`. Raises UserError if it is no sweep's folder."""
    path = folder / DEFINITION
    if not path.is_file():
        raise UserError(f"{folder}: holds no {DEFINITION}, expected the folder of a sweep")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        return {name: content[name] for name in ("axes", "recipe", "points")}  # type: ignore[index]
    except Exception as error:  # the YAML library raises many kinds
        raise UserError(f"{path}: not a sweep's definition: {' '.join(str(error).split())}") from None


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    expected = "expected the same one or another folder"
    for key in {**old["recipe"], **new["recipe"]}:
        before, after = (sweep["recipe"].get(key, "an axis") for sweep in (old, new))
        if before != after and not key.startswith(HARMLESS):
            raise UserError(f"dir: {folder} holds another sweep ({key} was {before!r}, is now {after!r}), {expected}")
    gone = [name for name in old["points"] if name not in new["points"]]
    if gone:
        raise UserError(f"dir: {folder} holds another sweep (point {gone[0]} is in it, not in this one), {expected}")


# ---------------------------------------------------------------- how far a run is


@dataclass(frozen=True)
class Progress:
    step: int  # the last one reported
    steps: int
    finished: bool
    losses: dict[str, float]  # the last reported ones, by metric

    @property
    def share(self) -> float:
        return 1.0 if self.finished else self.step / self.steps


def progress(run: Path, recipe: Recipe) -> Progress:
    """How far the run of `recipe` in directory `run` is."""
    steps, rows = Budget.of(recipe).steps, runs.read_metrics(run)
    losses = {
        name: value
        for row in rows
        for name, value in row.items()
        if name.startswith(("train/", "valid/")) and isinstance(value, float)
    }
    return Progress(rows[-1]["step"] if rows else 0, steps, is_finished(run, rows, steps), losses)


def is_finished(run: Path, rows: list[dict[str, Any]], steps: int) -> bool:
    """Whether the last step's checkpoint and its validation are there."""
    folders = runs.checkpoints(run)
    saved = bool(folders) and folders[-1].name == f"step-{steps:06d}"
    return saved and any(row["step"] == steps and runs.is_validation(row) for row in rows)


def is_locked(run: Path) -> bool:
    """Whether a process trains in `run` right now."""
    if not (run / ".lock").exists():
        return False
    held = files.lock(run / ".lock")
    if held is None:
        return True
    os.close(held)
    return False
