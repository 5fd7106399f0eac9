"""Checkpoints: atomic, checksummed, found again after any interruption.

    checkpoints/step-000100/
        manifest.json        SHA-256 of every file below, the step, and whether to keep it
        deepspeed/           engine state (parameters, optimizer), one part per rank
        model.safetensors    whole weights ┐
        config.json          ...           ├ all that evaluation, generation and export read
        tokenizer.json                     ┘

A checkpoint is written under a hidden name and renamed when complete, so a folder named `step-*` is
whole unless something altered it afterwards; the checksums tell.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dualm.config import CheckpointConfig, Recipe
from dualm.data.tokenizer import Tokenizer
from dualm.errors import UserError
from dualm.model import weights
from dualm.training.distributed import World, on_first_rank
from dualm.training.engine import whole_weights
from dualm.training.schedules import cooldown_start

MANIFEST = "manifest.json"
FULL_DISK = 2**20  # bytes free after a failed write below which the disk is called full


def is_special(step: int, recipe: Recipe, steps: int) -> bool:
    """Whether the checkpoint after `step` updates is kept for good: the last, exponential, before cooldown."""
    config = recipe.checkpoint
    cooldown = (
        config.before_cooldown
        and recipe.schedule.name == "trapezoid"
        and step == cooldown_start(recipe.schedule, steps)
    )
    return step == steps or cooldown or (config.exponential and step & (step - 1) == 0)


def is_due(step: int, recipe: Recipe, steps: int) -> bool:
    return is_special(step, recipe, steps) or (recipe.checkpoint.every > 0 and step % recipe.checkpoint.every == 0)


def save(run: Path, step: int, engine: Any, world: World, recipe: Recipe, tokenizer: Tokenizer, special: bool) -> None:
    """Write `step`'s checkpoint and drop periodic ones beyond `checkpoint.keep`. All ranks must call it."""
    final = run / "checkpoints" / f"step-{step:06d}"
    partial = final.with_name(f".{final.name}")
    on_first_rank(world, lambda: shutil.rmtree(partial, ignore_errors=True))

    def finish(state: dict[str, torch.Tensor]) -> None:
        weights.save(partial, state, recipe.model)
        tokenizer.save(partial / "tokenizer.json")
        manifest = {
            "step": step,
            "keep": special,
            "world_size": world.size,
            "zero_stage": recipe.train.zero_stage,
            "files": checksums(partial),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in [*partial.rglob("*"), partial]:
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
        partial.rename(final)
        _flush(final.parent)
        drop_old(run, recipe.checkpoint)

    with _removed_on_error(partial):
        engine.save_checkpoint(str(partial / "deepspeed"), tag="state", save_latest=False)
        state = whole_weights(engine, world)
        # The barrier lets every rank's part of the engine state reach the disk before it is summed.
        torch.distributed.barrier()
        on_first_rank(world, lambda: finish(state))


@contextmanager
def _removed_on_error(partial: Path) -> Iterator[None]:
    """Leave nothing half-written; a full disk is the user's to mend, whatever the writing library called it."""
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(partial.parent).free
        shutil.rmtree(partial, ignore_errors=True)
        if free < FULL_DISK or getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(f"{partial.parent}: No space left on device for checkpoint {partial.name[1:]}") from error
        raise


def newest_whole(run: Path, say: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint of `run` whose files match their checksums; None if there is no checkpoint at all.

    Damaged ones are passed over, and said so. Raises UserError if every checkpoint is damaged.
    """
    say = say or (lambda text: print(text, file=sys.stderr))
    folders = checkpoints(run)
    for folder in reversed(folders):
        defect = find_defect(folder)
        if defect is None:
            return folder
        say(f"{folder}: {defect}; trying the checkpoint before it")
    if folders:
        raise UserError(f"{run / 'checkpoints'}: none of the {len(folders)} checkpoints is whole")
    return None


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))


def find_defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected: dict[str, str] = manifest["files"]
    except (OSError, ValueError, KeyError):
        return "manifest missing or unreadable"
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    found = checksums(folder)
    altered = [name for name, digest in expected.items() if found[name] != digest]
    return f"{altered[0]} is truncated or altered" if altered else None


def load(folder: Path, engine: Any, world: World, recipe: Recipe) -> int:
    """Restore the engine from a whole checkpoint; returns its step."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if (manifest["world_size"], manifest["zero_stage"]) != (world.size, recipe.train.zero_stage):
        raise UserError(
            f"{folder}: was written by {manifest['world_size']} processes at ZeRO stage {manifest['zero_stage']}, "
            f"expected {world.size} at stage {recipe.train.zero_stage}: exact resume needs the same"
        )
    engine.load_checkpoint(str(folder / "deepspeed"), tag="state")
    return int(manifest["step"])


def drop_old(run: Path, config: CheckpointConfig) -> None:
    """Delete all periodic checkpoints but the newest `config.keep`, and what interrupted saves left."""
    periodic = [folder for folder in checkpoints(run) if not _kept_for_good(folder)]
    for folder in periodic[: -config.keep]:
        hidden = folder.rename(folder.with_name(f".{folder.name}"))
        shutil.rmtree(hidden)
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` but the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_sha256, files)
    return {str(path.relative_to(folder)): digest for path, digest in zip(files, digests, strict=True)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept_for_good(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_text())["keep"])
    except (OSError, ValueError, KeyError):
        return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
