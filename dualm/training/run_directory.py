"""The run directory: one recipe's, from its first step to its last."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dualm import files
from dualm.config import Recipe, dump, flatten, load
from dualm.errors import UserError
from dualm.plan.passes import Use

# What may change between two starts of one run without changing its numbers.
HARMLESS = ("run.dir", "train.log_every", "train.prefetch", "model.checkpointing", "validate.every", "checkpoint.")


def claim(recipe: Recipe) -> Path:
    """Make the run directory, or enter one that this very recipe made.

    Raises:
        UserError: the directory holds a run of another recipe, or something that is no run.
    """
    run = Path(recipe.run.dir)
    written = run / "recipe.yaml"
    if written.exists():
        _check_same(load(written), recipe, run)
    elif run.exists() and any(run.iterdir()):
        raise UserError(f"run.dir: {run} is not empty and holds no recipe.yaml, expected a new or a run's directory")
    try:
        run.mkdir(parents=True, exist_ok=True)
        files.write_text(written, dump(recipe))
        files.write_json(run / "environment.json", environment())
    except OSError as error:
        raise UserError(f"run.dir: cannot write to {run}: {error.strerror}") from None
    return run


def record_data(run: Path, uses: Sequence[Use]) -> None:
    """Write `data.json`: which unit the unique data are a random subset of, and how much of each source they are."""
    files.write_json(run / "data.json", {"sources": [use._asdict() for use in uses]})


def lock(run: Path) -> int:
    """Be the only one to train in `run`: the descriptor that holds the lock, until it or its process ends.

    Raises:
        UserError: another process trains there (a worker that outlived its launcher, say).
    """
    held = files.lock(run / ".lock")
    if held is None:
        raise UserError(f"run.dir: another process is training in {run}, expected none")
    return held


def _check_same(old: Recipe, new: Recipe, run: Path) -> None:
    before, after = flatten(old), flatten(new)
    changed = [key for key in after if before[key] != after[key] and not key.startswith(HARMLESS)]
    if changed:
        key = changed[0]
        raise UserError(
            f"run.dir: {run} was made by another recipe ({key} was {before[key]!r}, is now {after[key]!r}), "
            "expected the same one or another directory"
        )


def environment() -> dict[str, Any]:
    """What the run was made with: command, versions, machine, commit."""
    packages = [line.split("==")[0].lower() for line in metadata.requires("dualm") or []]
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": _commit(),
        "versions": {name: metadata.version(name) for name in packages if _is_installed(name)},
    }


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
