"""The loss of masked diffusion against the continuous-time bound of MDLM, written out independently in float64.

    L = E_s [ alpha'_s / (1 - alpha_s) * sum over masked positions of log <x_theta, x> ]     (Sahoo et al. 2024, eq. 10)

With the logits and the masks fixed, the integrand must come out of objective and model to float32 accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dualm.config import ObjectiveConfig
from dualm.data.tokenizer import BOS, MASK
from dualm.data.windows import Window
from dualm.model.loss import linear_cross_entropy
from dualm.objectives.example import collate
from dualm.objectives.masked_diffusion import MaskedDiffusion
from dualm.objectives.time import density

VOCAB, LENGTH = 40, 24
WINDOW = Window(np.concatenate([[BOS], np.random.default_rng(0).integers(16, VOCAB, LENGTH)]))
LEAST, MOST = 1e-3, 20.0

ALPHAS: dict[str, Callable[[float], float]] = {  # signal left at time s, as the papers write it
    "uniform": lambda s: 1 - s,
    "cosine_md4": lambda s: 1 - math.cos(math.pi / 2 * (1 - s)),
    "cosine_mdlm": lambda s: math.cos(math.pi / 2 * s),
    "cosine_squared": lambda s: math.cos(math.pi / 2 * s) ** 2,
    "linear_sigma": lambda s: math.exp(-10 * s),
    "polynomial": lambda s: 1 - s**2,
    "geometric": lambda s: math.exp(-(LEAST ** (1 - s)) * MOST**s),
}


def integrand(alpha: Callable[[float], float], s: float, logits: np.ndarray, masked: np.ndarray) -> float:
    """Nats per maskable token. The mask token has probability zero; visible tokens are carried over and cost nothing."""
    step = 1e-6
    slope = (alpha(s + step) - alpha(s - step)) / (2 * step)
    total = 0.0
    for position in masked:
        row = logits[position].copy()
        row[MASK] = -np.inf
        top = row.max()
        total += row[WINDOW.tokens[position]] - (top + math.log(np.exp(row - top).sum()))
    return slope / (1 - alpha(s)) * total / (LENGTH - 1)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("schedule", ALPHAS)
def test_the_loss_is_the_papers_equation(schedule: str, shifted: bool) -> None:
    config = ObjectiveConfig(time=schedule, mask_count="bernoulli", weighting="importance", shifted=shifted)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(LENGTH, 8, generator=generator)
    head = torch.randn(VOCAB, 8, generator=generator)
    logits = hidden.double().numpy() @ head.double().numpy().T  # of the outputs
    if shifted:
        logits = np.roll(logits, 1, axis=0)  # the output at i - 1 is that of position i
    for s in (0.2, 0.55, 0.9):
        example = MaskedDiffusion.of(config, density(config))(WINDOW, 1 - s, np.random.default_rng(7))
        assert example.rate == pytest.approx(1 - ALPHAS[schedule](s), abs=1e-9)
        masked = np.flatnonzero(example.inputs == MASK)
        assert len(masked) > 0
        batch = collate([example])
        nll, _ = linear_cross_entropy(hidden[batch.outputs], head, batch.targets, MASK)
        ours = float((nll * batch.weights).sum())
        assert ours == pytest.approx(integrand(ALPHAS[schedule], s, logits, masked), rel=1e-5)


@pytest.mark.parametrize("schedule", ALPHAS)
def test_the_weight_of_a_step_is_that_of_the_discrete_bound(schedule: str) -> None:
    """Discrete time: T (alpha_(s) - alpha_(t)) / (1 - alpha_(t)) for the step from t to s, alpha_0 = 1."""
    alpha, steps = ALPHAS[schedule], 5
    config = ObjectiveConfig(time=schedule, mask_count="bernoulli", weighting="importance", time_steps=steps)
    objective = MaskedDiffusion.of(config, density(config))
    for step in range(1, steps + 1):
        later, earlier = alpha(step / steps), alpha((step - 1) / steps) if step > 1 else 1.0
        u = 1 - (step - 0.5) / steps
        example = next(  # one that masks anything
            made for seed in range(200) if (made := objective(WINDOW, u, np.random.default_rng(seed))).weights.any()
        )
        assert example.rate == pytest.approx(1 - later, abs=1e-9)
        weight = steps * (earlier - later) / (1 - later) / (LENGTH - 1)
        assert example.weights[example.weights > 0] == pytest.approx(weight)


def test_elbo_and_importance_are_one_for_uniform_time() -> None:
    for count in ("exact", "bernoulli"):
        weights = [
            MaskedDiffusion(mask_count=count, weighting=weighting)(WINDOW, 0.4, np.random.default_rng(1)).weights
            for weighting in ("elbo", "importance")
        ]
        assert weights[0] == pytest.approx(weights[1])
    assert density(ObjectiveConfig()).slope(0.3) == 1
