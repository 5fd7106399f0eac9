"""In one process there is nothing for ZeRO to share out."""

from __future__ import annotations

import json

import pytest
import torch

from dualm.config import Recipe, TrainConfig
from dualm.model.precision import emulated
from dualm.training.engine import used_stage
from tests.conftest import Tiny


def test_one_process_runs_stage_0_and_says_so(tiny: Tiny) -> None:
    said = tiny.train("train.zero_stage=2", "train.steps=2").stderr
    assert "train.zero_stage: 2 has nothing to share out in one process; stage 0 runs" in " ".join(said.split())
    manifest = json.loads((tiny.folder / "run/checkpoints/step-000002/manifest.json").read_text())
    assert manifest["zero_stage"] == 0
    assert "nothing to share out" not in tiny.train("train.zero_stage=0", "train.steps=2", run="plain").stderr


@pytest.mark.parametrize(
    ("world", "written", "used"), [(1, None, 0), (1, 0, 0), (1, 2, 2), (2, None, 2), (2, 0, 2), (2, 2, 2)]
)
def test_a_checkpoint_goes_on_at_the_stage_that_wrote_it(world: int, written: int | None, used: int) -> None:
    assert used_stage(Recipe(train=TrainConfig(zero_stage=2)), world, written) == used


def test_emulated_bf16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda answer=supported: answer)
        said = emulated("bf16", torch.device("cpu"))
        assert said is None if supported else said and "no bf16 instructions" in said
        assert emulated("fp32", torch.device("cpu")) is None
        assert emulated("bf16", torch.device("cuda")) is None
