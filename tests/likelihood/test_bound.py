"""Promise 2: on a model small enough to enumerate, the Monte Carlo NELBO is the exact any-order average."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dualm.config import ObjectiveConfig
from dualm.data.tokenizer import BOS, EOS, MASK
from dualm.data.windows import Window
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer
from dualm.objectives.example import collate
from dualm.objectives.masked_diffusion import MaskedDiffusion
from dualm.objectives.time import DENSITIES, Density
from tests.conftest import random_model

WINDOW = Window(np.array([BOS, 17, 19, 18, 17, EOS]))
PLACES = (1, 2, 3, 4)  # the maskable positions of its inputs


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(0, 0.6, layers=2, context=5, vocab=21)


def log_probability(model: Transformer, masked: tuple[int, ...], shifted: bool) -> dict[int, float]:
    """log p of the true token at each masked place, given all the others."""
    inputs = torch.from_numpy(WINDOW.inputs.copy())[None]
    inputs[0, list(masked)] = MASK
    with torch.no_grad():
        log_p = (
            model.logits(inputs, AttentionMask("bidirectional"))[0]
            .double()
            .index_fill(-1, torch.tensor(MASK), -torch.inf)
            .log_softmax(-1)
        )
    return {place: float(log_p[place - 1 if shifted else place, WINDOW.tokens[place]]) for place in masked}


def any_order(model: Transformer, shifted: bool) -> float:
    """(1/N) * sum over k of the mean cross-entropy over all masks of k tokens: the exact NELBO per token."""
    by_count = []
    for count in range(1, len(PLACES) + 1):
        masks = list(itertools.combinations(PLACES, count))
        by_count.append(np.mean([-np.mean(list(log_probability(model, mask, shifted).values())) for mask in masks]))
    return float(np.mean(by_count))


def monte_carlo(model: Transformer, objective: MaskedDiffusion, draws: int) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    batch = collate([objective(WINDOW, rng.random(), rng) for _ in range(draws)])
    with torch.no_grad():
        losses = model(*batch.arguments).nll
    return float(losses.mean()), float(losses.std()) / math.sqrt(draws)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("mask_count", ["exact", "bernoulli"])
def test_the_estimate_is_the_any_order_average(model: Transformer, mask_count: str, shifted: bool) -> None:
    mean, error = monte_carlo(model, MaskedDiffusion(mask_count=mask_count, shifted=shifted), 40_000)
    assert error < 0.01 * mean
    assert abs(mean - any_order(model, shifted)) < 4 * error


@pytest.mark.parametrize("mask_count", ["exact", "bernoulli"])
@pytest.mark.parametrize("name", ["bell", "beta", "cosine", "polynomial", "geometric"])
def test_importance_weights_give_the_bound_under_any_density(model: Transformer, name: str, mask_count: str) -> None:
    """Densities that are nowhere zero; the least t of bell and geometric is so small that it hides nothing here."""
    config = ObjectiveConfig(time_min=1e-9, time_std=0.4, time_beta=[1.3, 1.2], time_noise=[1e-6, 30.0])
    density: Density = DENSITIES[name](config)
    mean, error = monte_carlo(model, MaskedDiffusion(density, mask_count, "importance"), 40_000)
    assert error < 0.02 * mean
    assert abs(mean - any_order(model, True)) < 4 * error


def test_exact_counts_have_the_lower_variance(model: Transformer) -> None:
    errors = {
        count: monte_carlo(model, MaskedDiffusion(mask_count=count), 10_000)[1] for count in ("exact", "bernoulli")
    }
    assert errors["exact"] < 0.7 * errors["bernoulli"]


@pytest.mark.parametrize("shifted", [True, False])
def test_the_nelbo_bounds_the_likelihood_of_a_random_order_decoder(model: Transformer, shifted: bool) -> None:
    """-log of the probability averaged over orders, which is what ancestral sampling draws from (Jensen)."""
    logs = []
    for order in itertools.permutations(PLACES):
        steps = (log_probability(model, order[start:], shifted)[order[start]] for start in range(len(order)))
        logs.append(sum(steps))
    assert -np.mean(logs) / len(PLACES) == pytest.approx(any_order(model, shifted), abs=1e-6)
    exact_nll = -np.log(np.mean(np.exp(logs))) / len(PLACES)
    assert exact_nll < any_order(model, shifted) - 0.01
