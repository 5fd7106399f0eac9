"""Masked-input regularisation: the clean loss of a window plus a weight times its loss on masked inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.synthetic import packed
from dualm.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, TrainConfig, check, load
from dualm.data.tokenizer import BOS, MASK
from dualm.data.windows import Window
from dualm.errors import UserError
from dualm.objectives import OBJECTIVES
from dualm.objectives.autoregressive import autoregressive
from dualm.objectives.example import Batch, Objective, collate
from dualm.objectives.time import UNIFORM
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import Same
from dualm.training.cost import cost
from tests.conftest import Tiny, random_model

WINDOW = Window(np.concatenate([[BOS], np.arange(20, 220)]))
RNG = np.random.default_rng(0)
STREAM = np.random.default_rng(1).integers(16, 60, 2000)
QUICKSTART = Path(__file__).parents[2] / "recipes/quickstart.yaml"


def mir(**keys: Any) -> Objective:
    return OBJECTIVES["mir"].build(ObjectiveConfig(**keys), UNIFORM)


def test_a_window_gives_a_clean_and_a_masked_sequence() -> None:
    plain = autoregressive(WINDOW, 0.5, RNG)
    for u, share in ((0.0, 0.1), (0.5, 0.3), (0.999, 0.5)):
        clean, noisy = mir(mir_weight=0.25, mir_rates=[0.1, 0.5])(WINDOW, u, np.random.default_rng(0)).sequences()
        assert np.array_equal(clean.inputs, plain.inputs)
        assert np.array_equal(clean.weights, plain.weights)
        assert np.array_equal(noisy.targets, plain.targets)
        assert noisy.weights == pytest.approx(0.25 * plain.weights)
        assert noisy.attention == clean.attention == "causal"
        hidden = noisy.inputs == MASK
        assert not hidden[:8].any()
        assert hidden[8:].mean() == pytest.approx(share, abs=0.08)
        assert np.array_equal(noisy.inputs[~hidden], plain.inputs[~hidden])


def test_collating_keeps_the_mean_over_windows() -> None:
    """In rows: clean, masked, clean, masked; all weights twice, since the mean is over twice the rows."""
    examples = [mir()(WINDOW, u, np.random.default_rng(7)) for u in (0.2, 0.8)]
    batch = collate(examples)
    assert batch.inputs.shape == (4, 200)
    rows = torch.zeros(4).index_add(0, batch.outputs // 200, batch.weights)
    assert rows.tolist() == pytest.approx([2, 0.8, 2, 0.8], rel=1e-5)
    assert collate([autoregressive(WINDOW, 0, RNG)]).weights.sum() == pytest.approx(1)


def micro_batches(random_length: float = 0.0, **objective: Any) -> list[Batch]:
    """Those of one step."""
    recipe = Recipe(
        data=DataConfig(random_length=random_length),
        model=ModelConfig(context=24),
        objective=ObjectiveConfig(alpha=1.0, **objective),
        train=TrainConfig(steps=5, global_batch=6, micro_batch=3),
    )
    return [batch for _, batch in TrainingBatches.of(recipe, [Same(0, packed(STREAM, 24))]).step(2)]


@pytest.mark.parametrize("random_length", [0.0, 1.0])
def test_the_loss_of_a_step_is_the_sum_of_both(random_length: float) -> None:
    """Against the mean clean loss of the same windows and that of their masked copies."""
    model = random_model(0, 1.0, layers=1, context=24, vocab=64)

    def loss(batches: list[Batch]) -> float:
        return float(np.mean([model(*batch.arguments).nll.mean().item() for batch in batches]))

    both, clean, masked = (
        loss(micro_batches(random_length, ar="mir", mir_weight=weight, mir_rates=[0.3, 0.3])) for weight in (0.4, 0, 1)
    )
    assert clean == pytest.approx(loss(micro_batches(random_length)), rel=1e-6)
    assert both == pytest.approx(clean + 0.4 * (masked - clean), rel=1e-6)
    assert random_length or abs(masked - 2 * clean) > 0.01 * clean  # masks do change the loss of whole windows


def test_it_costs_twice_the_autoregressive_compute() -> None:
    def flops(*keys: str) -> float:
        return cost(load(QUICKSTART, keys), 1).flops

    for alpha in (1.0, 0.5, 0.0):
        keys = (f"objective.alpha={alpha}", "objective.prefix_fraction=0")
        assert flops(*keys, "objective.ar=mir") == pytest.approx((1 + alpha) * flops(*keys), rel=1e-9)
    plain, twice = (cost(load(QUICKSTART, [f"objective.ar={name}"]), 1).memory for name in ("autoregressive", "mir"))
    assert all(more > less for more, less in zip(twice, plain, strict=True))


def test_it_trains_and_its_metric_is_the_sum(tiny: Tiny) -> None:
    tiny.train("objective.alpha=1", "objective.prefix_fraction=0", "objective.ar=mir", "train.steps=2")
    rows = [row for row in tiny.rows() if "train/loss" in row]
    assert rows[0]["train/mir_loss"] == pytest.approx(1.4 * math.log(272), rel=0.02)  # a uniform guess
    assert all(row["train/mir_loss"] == pytest.approx(row["train/loss"]) for row in rows)
    assert all("train/ar_loss" not in row for row in rows)


@pytest.mark.parametrize("rates", [[0.5, 0.1], [0.1], [0.0, 1.5]])
def test_impossible_shares_are_refused(rates: list[float]) -> None:
    recipe = Recipe(objective=ObjectiveConfig(mir_rates=rates), train=TrainConfig(steps=1))
    with pytest.raises(
        UserError, match=r"objective\.mir_rates: got \[.*the smallest share in \[0, 1\], then the largest"
    ):
        check(recipe)
