"""Promise 4: the loss of step n is the same at every world size, ZeRO stage and launcher."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Tiny

Reference = tuple[tuple[str, ...], dict[int, float]]
ADAMW, MUON = ("adamw", 0.1), ("muon", 0.0)


@pytest.fixture(scope="module", params=[ADAMW, MUON])
def reference(
    request: pytest.FixtureRequest, tiny_in: Callable[[Path], Tiny], tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    """Optimizer, dropout, and the losses of one process at ZeRO stage 0."""
    optimizer, dropout = request.param
    tiny = tiny_in(tmp_path_factory.mktemp(optimizer))
    keys = (f"optimizer.name={optimizer}", f"model.dropout={dropout}", "checkpoint.every=0")
    tiny.train(*keys)
    return keys, tiny.losses()


def check(reference: Reference, tiny: Tiny, world: int, stage: int, launcher: str = "forked") -> None:
    keys, expected = reference
    tiny.train(*keys, f"train.zero_stage={stage}", launcher=launcher, world=world)
    assert len(expected) == 6
    # Newton-Schulz amplifies what a different summation order leaves in the tiniest singular values.
    assert tiny.losses() == pytest.approx(expected, abs=2e-5 if "optimizer.name=adamw" in keys else 1e-4)
    assert expected[6] < expected[1] - 0.5


@pytest.mark.parametrize(("world", "stage"), [(1, 1), (2, 0), (2, 1), (2, 2), (2, 3), (4, 1)])
def test_losses_do_not_depend_on_the_world(reference: Reference, tiny: Tiny, world: int, stage: int) -> None:
    check(reference, tiny, world, stage)


@pytest.mark.parametrize(
    ("reference", "launcher", "stage"),
    [(ADAMW, "plain", 1), (ADAMW, "torchrun", 2), (MUON, "deepspeed", 3)],
    indirect=["reference"],
)
def test_they_do_not_depend_on_the_launcher(reference: Reference, tiny: Tiny, launcher: str, stage: int) -> None:
    check(reference, tiny, 1 if launcher == "plain" else 2, stage, launcher)


def test_nothing_that_runs_after_training_can_fail_it(tiny: Tiny) -> None:
    """A thread of gloo's may abort the process while the interpreter shuts down, so the interpreter must not."""
    script = "import atexit, os, runpy; atexit.register(os.abort); runpy.run_module('dualm', run_name='__main__')"
    python = [sys.executable, "-c", script, *tiny.arguments("train.steps=2")]
    done = subprocess.run(python, capture_output=True, text=True, cwd=tiny.folder, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "AR NLL" in done.stdout
    refused = subprocess.run([*python, "train.zero_stage=1"], capture_output=True, cwd=tiny.folder, timeout=240)
    assert refused.returncode == 2
