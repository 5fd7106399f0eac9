"""A non-finite gradient skips the step, is logged, and ends the run after a limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Tiny

# Poisons the loss of chosen steps, then trains through the command line.
POISON = """
import sys
from dualm.model.transformer import Losses, Transformer
forward, calls = Transformer.forward, [0]
first, last = int(sys.argv.pop(1)), int(sys.argv.pop(1))
def poisoned(model, *arguments):
    losses = forward(model, *arguments)
    calls[0] += model.training
    step = (calls[0] - 1) // 4 + 1
    bad = model.training and first <= step <= last
    return Losses(losses.nll * float('nan') if bad else losses.nll, losses.z)
Transformer.forward = poisoned
from dualm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def poisoned(tiny: Tiny, first: int, last: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = tiny.command(*overrides)[3:]
    command = [sys.executable, "-c", POISON, str(first), str(last), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tiny.folder, timeout=120)


@pytest.mark.parametrize(("stage", "optimizer"), [(0, "adamw"), (1, "adamw"), (2, "muon"), (3, "adamw"), (0, "muon")])
def test_the_step_is_skipped(tiny: Tiny, stage: int, optimizer: str) -> None:
    done = poisoned(tiny, 2, 2, f"train.zero_stage={stage}", f"optimizer.name={optimizer}", "checkpoint.every=0")
    assert done.returncode == 0, done.stderr[-2000:]
    skipped = [row["step"] for row in tiny.rows() if row.get("event") == "skipped"]
    assert skipped == [2]
    losses = tiny.losses()
    assert set(losses) == {1, 3, 4, 5, 6}  # the poisoned step has no finite loss to report
    assert losses[6] < losses[1]


def test_the_run_ends_after_the_limit(tiny: Tiny) -> None:
    done = poisoned(tiny, 3, 99, "train.max_skipped=2", "train.zero_stage=1")
    assert done.returncode == 2
    assert "step 4: the gradient was not finite 2 steps in a row" in done.stderr
    assert "Traceback" not in done.stderr
