"""A non-finite gradient skips the step, is logged, and ends the run after a limit."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import Any

import pytest

from dualm.model.transformer import Losses, Transformer
from tests import forked
from tests.conftest import Tiny


def poison(first: int, last: int, world: int) -> None:
    """Be the command `dualm`, with a loss that is no number in the steps from `first` to `last`."""
    forward, calls = Transformer.forward, 0

    def poisoned(model: Transformer, *arguments: Any) -> Losses:
        nonlocal calls
        losses = forward(model, *arguments)
        calls += model.training
        step = (calls - 1) // (4 // world) + 1
        bad = model.training and first <= step <= last
        return Losses(losses.nll * float("nan") if bad else losses.nll, losses.z)

    Transformer.forward = poisoned  # type: ignore[method-assign]
    forked.command()


def poisoned(tiny: Tiny, first: int, last: int, world: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    main = partial(poison, first, last, world)
    return forked.Forked(tiny.arguments(*overrides), tiny.folder, world=world, main=main).finish()


@pytest.mark.parametrize(("stage", "optimizer"), [(0, "adamw"), (1, "adamw"), (2, "muon"), (3, "adamw"), (0, "muon")])
def test_the_step_is_skipped(tiny: Tiny, stage: int, optimizer: str) -> None:
    world = 2 if stage else 1  # one process runs stage 0 whatever the recipe says
    done = poisoned(tiny, 2, 2, world, f"train.zero_stage={stage}", f"optimizer.name={optimizer}", "checkpoint.every=0")
    assert done.returncode == 0, done.stderr[-2000:]
    skipped = [row["step"] for row in tiny.rows() if row.get("event") == "skipped"]
    assert skipped == [2]
    losses = tiny.losses()
    assert set(losses) == {1, 3, 4, 5, 6}  # the poisoned step has no finite loss to report
    assert losses[6] < losses[1]


def test_the_run_ends_after_the_limit(tiny: Tiny) -> None:
    done = poisoned(tiny, 3, 99, 1, "train.max_skipped=2", "train.zero_stage=1")
    assert done.returncode == 2
    assert "step 4: the gradient was not finite 2 steps in a row" in done.stderr
    assert "Traceback" not in done.stderr
