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
from dualm.objectives.time import DENSITIES, Density, density
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
@pytest.mark.parametrize(
    "name", ["bell", "beta", "cosine_md4", "cosine_mdlm", "cosine_squared", "polynomial", "geometric"]
)
def test_importance_weights_give_the_bound_under_any_density(model: Transformer, name: str, mask_count: str) -> None:
    """Densities that are nowhere zero; the least t of bell and geometric is so small that it hides nothing here."""
    config = ObjectiveConfig(time_min=1e-9, time_std=0.4, time_beta=[1.3, 1.2], time_noise=[1e-6, 30.0])
    mean, error = monte_carlo(model, MaskedDiffusion(DENSITIES[name](config), mask_count, "importance"), 40_000)
    assert error < 0.02 * mean
    assert abs(mean - any_order(model, True)) < 4 * error


def trajectories(model: Transformer, rates: list[float], shifted: bool) -> tuple[float, float]:
    """The reverse process of T steps over the places, by every way to spread them over the steps in which they are revealed.

    Place n is revealed in step i with probability t_i - t_(i-1), independently, and then seen with all that is still masked, itself
    included, hidden. The NELBO and -log p of the window, both per token.
    """
    steps = np.diff([0.0, *rates])
    nelbo = likelihood = 0.0
    for revealed in itertools.product(range(len(rates)), repeat=len(PLACES)):
        chance = math.prod(steps[step] for step in revealed)
        log_p = 0.0
        for step in set(revealed):
            masked = tuple(place for place, when in zip(PLACES, revealed, strict=True) if when <= step)
            seen = log_probability(model, masked, shifted)
            log_p += sum(seen[place] for place, when in zip(PLACES, revealed, strict=True) if when == step)
        nelbo -= chance * log_p
        likelihood += chance * math.exp(log_p)
    return nelbo / len(PLACES), -math.log(likelihood) / len(PLACES)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("name", ["uniform", "cosine_mdlm"])
def test_the_discrete_bound_is_that_of_the_process_in_steps(model: Transformer, name: str, shifted: bool) -> None:
    config = ObjectiveConfig(time=name, time_steps=3, mask_count="bernoulli", weighting="importance", shifted=shifted)
    time = density(config)
    rates = [DENSITIES[name](config).inverse(i / 3) for i in (1, 2, 3)]
    nelbo, exact_nll = trajectories(model, rates, shifted)
    mean, error = monte_carlo(model, MaskedDiffusion.of(config, time), 40_000)
    assert error < 0.01 * mean
    assert abs(mean - nelbo) < 4 * error
    assert nelbo == pytest.approx(by_masks(entropies(model, shifted), time, 3), abs=1e-6)
    assert nelbo > exact_nll + 0.01  # an upper bound of what a sampler of three steps gives the window (Jensen)


def entropies(model: Transformer, shifted: bool) -> dict[tuple[int, ...], float]:
    """Cross-entropy in nats of all masked places, by which of them are masked."""
    masks = [mask for count in range(1, len(PLACES) + 1) for mask in itertools.combinations(PLACES, count)]
    return {mask: -sum(log_probability(model, mask, shifted).values()) for mask in masks}


def by_masks(entropies: dict[tuple[int, ...], float], time: Density, steps: int) -> float:
    """The discrete NELBO per token by its definition: the mean over i of slope / t_i times the expected cross-entropy at rate t_i."""
    total = 0.0
    for step in range(1, steps + 1):
        rate = time.inverse(step / steps)
        chances = (rate ** len(mask) * (1 - rate) ** (len(PLACES) - len(mask)) for mask in entropies)
        expected = sum(chance * nats for chance, nats in zip(chances, entropies.values(), strict=True))
        total += time.slope(rate) / rate * expected / steps
    return total / len(PLACES)


@pytest.mark.parametrize("name", ["uniform", "cosine_md4", "cosine_mdlm", "cosine_squared", "linear_sigma"])
def test_with_many_steps_the_discrete_bound_is_the_continuous_one(model: Transformer, name: str) -> None:
    nats, continuous = entropies(model, True), any_order(model, True)
    one, many = (by_masks(nats, density(ObjectiveConfig(time=name, time_steps=steps)), steps) for steps in (1, 3000))
    assert many == pytest.approx(continuous, rel=1e-3)
    if name != "linear_sigma":  # whose last rate is not quite 1
        assert one == pytest.approx(nats[PLACES] / len(PLACES))  # all is masked in one step, and nothing seen
        assert abs(one - continuous) > 0.01


def test_the_discrete_bound_falls_to_the_continuous_one() -> None:
    """For the true conditionals of a joint distribution, under which a token is surer the more is seen: fewer steps, a looser bound."""
    joint = np.random.default_rng(0).dirichlet(np.full(3 ** len(PLACES), 0.1)).reshape((3,) * len(PLACES))

    def entropy(places: tuple[int, ...]) -> float:
        """Of the tokens at these places together."""
        others = tuple(axis for axis, place in enumerate(PLACES) if place not in places)
        return float(-sum(p * math.log(p) for p in joint.sum(axis=others).flat if p > 0))

    nats = {}
    for mask in (mask for count in range(1, len(PLACES) + 1) for mask in itertools.combinations(PLACES, count)):
        visible = tuple(place for place in PLACES if place not in mask)
        nats[mask] = sum(entropy(tuple(sorted((*visible, place)))) - entropy(visible) for place in mask)
    true = entropy(PLACES) / len(PLACES)
    for name in ("uniform", "cosine_mdlm", "cosine_squared"):
        bounds = [
            by_masks(nats, density(ObjectiveConfig(time=name, time_steps=steps)), steps)
            for steps in (1, 2, 4, 8, 16, 2048)
        ]
        assert np.all(np.diff(bounds) < 0)
        assert bounds[0] > 1.3 * true
        assert bounds[-1] == pytest.approx(true, rel=2e-3)  # every order of true conditionals gives the true likelihood
        assert bounds[-1] > true


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
