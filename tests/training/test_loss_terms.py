"""What the optimizer minimises: the mixture, its weights, the z-loss, and a gradient clipped alike at every stage."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from dualm.config import OptimizerConfig
from dualm.training.optimizers import adamw, muon
from tests.conftest import Tiny


def test_the_loss_is_the_weighted_mixture_plus_z(tiny: Tiny) -> None:
    keys = ("train.steps=1", "objective.prefix_fraction=0", "objective.alpha=0.25")
    tiny.train(*keys, run="plain")
    tiny.train(*keys, "objective.ar_weight=2", "objective.z_loss=0.01", run="weighted")
    plain, weighted = (next(row for row in tiny.rows(run) if "train/loss" in row) for run in ("plain", "weighted"))
    ar, md = plain["train/ar_loss"], plain["train/md_loss"]
    assert plain["train/loss"] == pytest.approx(0.25 * ar + 0.75 * md)
    assert (weighted["train/ar_loss"], weighted["train/md_loss"]) == pytest.approx((ar, md))
    # At the start all logits are small, so that logsumexp is about the log of the vocabulary, 272.
    z = 0.01 * math.log(272) ** 2
    assert weighted["train/loss"] == pytest.approx(0.25 * 2 * (ar + z) + 0.75 * (md + z), rel=0.01)


def test_clipping_is_the_same_at_every_stage(tiny: Tiny) -> None:
    """A large eps makes Adam feel the size of the gradient."""
    keys = ("train.steps=4", "optimizer.eps=1", "optimizer.lr=3", "optimizer.weight_decay=0", "checkpoint.every=0")
    for stage in (0, 1, 3):
        tiny.train(
            *keys, "optimizer.clip=0.05", f"train.zero_stage={stage}", run=f"clipped-{stage}", world=2 if stage else 1
        )
    tiny.train(*keys, "optimizer.clip=0", run="free")
    clipped = tiny.losses("clipped-0")
    for stage in (1, 3):
        assert tiny.losses(f"clipped-{stage}") == pytest.approx(clipped, abs=1e-4)
    assert abs(tiny.losses("free")[4] - clipped[4]) > 0.01
    norms = [next(row for row in tiny.rows(f"clipped-{stage}") if "train/gradient_norm" in row) for stage in (0, 1, 3)]
    assert [row["train/gradient_norm"] for row in norms] == pytest.approx(
        [norms[0]["train/gradient_norm"]] * 3, rel=1e-4
    )
    assert norms[0]["train/gradient_norm"] > 0.05


def test_gains_do_not_decay() -> None:
    matrix, gain = (torch.nn.Parameter(torch.ones(shape)) for shape in ((3, 2), (3,)))
    optimizer = adamw([("w", matrix), ("g", gain)], OptimizerConfig(lr=0.1, weight_decay=0.5), zero_stage=0)
    for parameter in (matrix, gain):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert matrix.detach().unique().tolist() == pytest.approx([0.95])
    assert gain.detach().unique().tolist() == [1.0]


@pytest.mark.parametrize("build", [adamw, muon])
def test_gains_and_biases_decay_if_asked_to(build: Callable[..., torch.optim.Optimizer]) -> None:
    matrix, gain, bias = (torch.nn.Parameter(torch.ones(shape)) for shape in ((3, 2), (3,), (2,)))
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, decay_gains=True)
    optimizer = build([("lm_head.weight", matrix), ("norm", gain), ("lm_head.bias", bias)], config, 0)
    for parameter in (matrix, gain, bias):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in (matrix, gain, bias):
        assert parameter.detach().unique().tolist() == pytest.approx([0.95])
