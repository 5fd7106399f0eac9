"""Muon's update is orthogonal, at the published scale, at every ZeRO stage."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from dualm.config import ModelConfig
from dualm.model import size
from dualm.training.optimizers import is_hidden_matrix, update_scale
from tests.conftest import Tiny

LR = 0.01


@pytest.mark.parametrize(("stage", "world"), [(0, 1), (1, 2), (2, 2), (3, 2)])
def test_the_update_is_orthogonal(tiny: Tiny, stage: int, world: int) -> None:
    tiny.train(
        *("optimizer.name=muon", f"optimizer.lr={LR}", "optimizer.weight_decay=0", "schedule.name=constant"),
        *("schedule.warmup=0", f"train.zero_stage={stage}", "train.steps=2", "checkpoint.every=1"),
        world=world,
    )
    before, after = (load_file(tiny.folder / f"run/checkpoints/step-00000{step}/model.safetensors") for step in (1, 2))
    hidden = [name for name, weight in before.items() if is_hidden_matrix(name, weight.ndim)]
    assert len(hidden) == 14
    for name in hidden:
        update = (after[name] - before[name]) / (LR * update_scale(*before[name].shape))
        singular = torch.linalg.svdvals(update)
        # Five Newton-Schulz steps flatten the spectrum to about 1; what the gradient hardly has stays small.
        assert singular.max() < 1.3, name
        assert singular[: len(singular) // 4].min() > 0.7, name


def test_the_heads_inner_matrix_is_a_hidden_one() -> None:
    matrices = [name for name, shape in size.shapes(ModelConfig(layers=1, head="mlp")).items() if len(shape) == 2]
    adamw = {name for name in matrices if not is_hidden_matrix(name, 2)}
    assert adamw == {"model.embed_tokens.weight", "lm_head.weight"}
    assert "lm_head.dense.weight" in matrices


def test_the_update_has_the_size_of_an_adam_step() -> None:
    for rows, columns in ((64, 64), (192, 64), (64, 192)):
        orthogonal = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns))).Q
        rms = orthogonal.square().mean().sqrt() * update_scale(rows, columns)
        assert rms == pytest.approx(0.2, rel=1e-3)
