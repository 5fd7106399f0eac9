"""Checkpoints: atomic, checksummed, found again after any interruption.

    checkpoints/step-000100/
        manifest.json        SHA-256 of every file below, the step, and whether to keep it
        deepspeed/           engine state (parameters, optimizer), one part per rank
        model.safetensors    whole weights (with optimizer.ema their average) ┐
        config.json          ...                                              ├ all that readers of the model need
        tokenizer.json                                                        ┘

A checkpoint is written under a hidden name and renamed when complete, so a folder named `step-*` is
whole unless something altered it afterwards; the checksums tell.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dualm
from dualm import files
from dualm.config import CheckpointConfig, Recipe
from dualm.data.tokenizer import Tokenizer
from dualm.errors import UserError
from dualm.model import weights
from dualm.runs import MANIFEST, checkpoints, checksums
from dualm.training.distributed import World, on_first_rank
from dualm.training.ema import WeightAverage
from dualm.training.engine import whole_weights
from dualm.training.learned_time import LearnedTime
from dualm.training.schedules import cooldown_start

FULL_DISK = 2**20  # bytes free after a failed write below which the disk is called full


def is_special(step: int, recipe: Recipe, steps: int) -> bool:
    """Whether the checkpoint after `step` updates is kept for good: the last, exponential, before cooldown."""
    config = recipe.checkpoint
    cooldown = config.before_cooldown and step == cooldown_start(recipe.schedule, steps)
    return step == steps or cooldown or (config.exponential and step & (step - 1) == 0)


def is_due(step: int, recipe: Recipe, steps: int) -> bool:
    return is_special(step, recipe, steps) or (recipe.checkpoint.every > 0 and step % recipe.checkpoint.every == 0)


@dataclass
class State:
    """What training carries from step to step."""

    engine: Any
    average: WeightAverage
    time: LearnedTime


def save(run: Path, step: int, state: State, world: World, recipe: Recipe, tokenizer: Tokenizer, special: bool) -> None:
    """Write `step`'s checkpoint and drop periodic ones beyond `checkpoint.keep`. All ranks must call it."""
    final = run / "checkpoints" / f"step-{step:06d}"
    partial = final.with_name(f".{final.name}")
    on_first_rank(world, lambda: shutil.rmtree(partial, ignore_errors=True))

    def finish(whole: dict[str, torch.Tensor]) -> None:
        about = {"shifted": recipe.objective.shifted, "tokenizer": tokenizer.hash}
        weights.save(partial, whole, recipe.model, about)
        tokenizer.save(partial / "tokenizer.json")
        manifest = {
            "step": step,
            "keep": special,
            "world_size": world.size,
            "zero_stage": state.engine.zero_optimization_stage(),
            "dualm": dualm.__version__,
            "numerics": dualm.NUMERICS,
            "files": checksums(partial),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        files.publish(partial, final)  # in place of a damaged one of the same step
        drop_old(run, recipe.checkpoint)

    with _removed_on_error(partial):
        carried = {"time": state.time.state()}
        state.engine.save_checkpoint(str(partial / "deepspeed"), tag="state", client_state=carried, save_latest=False)
        with state.average.in_place():
            whole = whole_weights(state.engine, world)
        # The barrier lets every rank's part of the engine state reach the disk before it is summed.
        torch.distributed.barrier()
        on_first_rank(world, lambda: finish(whole))


@contextmanager
def _removed_on_error(partial: Path) -> Iterator[None]:
    """Remove what is half-written. A full disk is a UserError, whichever exception the writing library raised."""
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(partial.parent).free
        shutil.rmtree(partial, ignore_errors=True)
        if free < FULL_DISK or getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(f"{partial.parent}: No space left on device for checkpoint {partial.name[1:]}") from error
        raise


def written_stage(folder: Path) -> int:
    """The ZeRO stage that wrote a whole checkpoint."""
    return int(json.loads((folder / MANIFEST).read_text())["zero_stage"])


def load(folder: Path, state: State, world: World, recipe: Recipe) -> int:
    """Restore the state of a whole checkpoint; returns its step."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest.get("numerics", 1) != dualm.NUMERICS:
        version = manifest.get("dualm", "0.1.0")
        raise UserError(
            f"{folder}: was written by dualm {version}, whose random streams are others, so this version ({dualm.__version__}) "
            f"would not give the same numbers; expected dualm {version} to resume it, or a new run.dir"
        )
    stage = state.engine.zero_optimization_stage()
    if (manifest["world_size"], manifest["zero_stage"]) != (world.size, stage):
        raise UserError(
            f"{folder}: was written by {manifest['world_size']} processes at ZeRO stage {manifest['zero_stage']}, "
            f"expected {world.size} at stage {stage}: exact resume needs the same"
        )
    _, carried = state.engine.load_checkpoint(str(folder / "deepspeed"), tag="state")
    state.time.restore(carried["time"], world.is_first)
    if recipe.optimizer.ema:
        state.average.load(weights.load(folder)[1])
    return int(manifest["step"])


def drop_old(run: Path, config: CheckpointConfig) -> None:
    """Delete all periodic checkpoints but the newest `config.keep`, and what interrupted saves left."""
    periodic = [folder for folder in checkpoints(run) if not _kept_for_good(folder)]
    for folder in periodic[: -config.keep]:
        hidden = folder.rename(folder.with_name(f".{folder.name}"))
        shutil.rmtree(hidden)
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _kept_for_good(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_text())["keep"])
    except (OSError, ValueError, KeyError):
        return False
