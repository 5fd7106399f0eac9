"""The masked diffusion loss of the released code of dual language models, stated again from its files and compared with ours.

pretraining/dataset.py       which inputs are masked, which outputs are supervised, the rate
run_pretraining.py           the weight of an output and what the sum is divided by
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dualm.config import ObjectiveConfig, Recipe, check
from dualm.data.tokenizer import BOS, MASK, PAD
from dualm.data.windows import Window
from dualm.errors import UserError
from dualm.objectives import OBJECTIVES
from dualm.objectives.masked_diffusion import MaskedDiffusion
from dualm.objectives.time import UNIFORM

KEYS = ObjectiveConfig(
    mask_count="rounded", mean_over="window", rate_floor=1e-4, mask_first=True, supervise_last=True, draws="iid"
)
RELEASED = OBJECTIVES["masked_diffusion"].build(KEYS, UNIFORM)
INSIDE = Window(np.arange(20, 29))  # eight inputs from the middle of a document
BORDER = Window(np.array([20, 21, 22, BOS, 30, 31, 32, 33, 34]))


def released_mask(inputs: np.ndarray, t: float, rng: np.random.Generator) -> np.ndarray:
    """Which inputs the released code masks at rate t: those with the smallest of L random numbers, infinite for special tokens."""
    order = np.where(inputs < 16, np.inf, rng.random(len(inputs)))
    count = max(1, int(len(inputs) * t + rng.random()))
    return order <= np.sort(order)[count - 1]


def released_weights(masked: np.ndarray) -> np.ndarray:
    """What it multiplies the cross-entropy of each output with, `[L]`."""
    supervised = np.append(masked[1:], True)
    rate = (1 - 1e-4) * masked.mean() + 1e-4
    return np.where(supervised, 1 / rate, 0) / len(masked)


@pytest.mark.parametrize("window", [INSIDE, BORDER])
def test_weights_are_the_released_ones(window: Window) -> None:
    seen = set()
    for seed in range(300):
        example = RELEASED(window, seed / 300, np.random.default_rng(seed))
        masked = example.inputs == MASK
        if masked.sum() == 7 and window is BORDER:
            continue  # where the count exceeds the seven maskable inputs, the released code masks <s> as well: below
        assert example.weights == pytest.approx(released_weights(masked), rel=1e-12)
        outputs = np.flatnonzero(example.weights)
        assert (example.targets[outputs] == window.tokens[1:][outputs]).all()
        seen.add((bool(masked[0]), int(masked.sum())))
    assert {count for _, count in seen} == set(range(1, 9 if window is INSIDE else 7))
    assert {first for first, _ in seen} == {False, True}


def test_everything_masked_has_rate_one() -> None:
    example = RELEASED(BORDER, 0.0, np.random.default_rng(0))  # t = 1: a count of eight, of which seven may be masked
    assert (example.inputs == MASK).tolist() == [True, True, True, False, True, True, True, True]
    assert example.rate == 1
    assert set(example.weights) == {0, 1 / 8}


def test_as_many_are_masked_as_often() -> None:
    draws = 20_000
    rng = np.random.default_rng(0)
    ours = [(RELEASED(INSIDE, rng.random(), rng).inputs == MASK) for _ in range(draws)]
    theirs = [released_mask(INSIDE.inputs, rng.random(), rng) for _ in range(draws)]
    histograms = [np.bincount(np.sum(masks, axis=1), minlength=9) / draws for masks in (ours, theirs)]
    assert histograms[0] == pytest.approx(histograms[1], abs=0.012)  # three standard errors of a difference
    assert histograms[0][1] > 1.3 * histograms[0][4] > 1.3 * 1.3 * histograms[0][8]
    assert np.mean(ours, axis=0) == pytest.approx(np.mean(theirs, axis=0), abs=0.016)


def test_defaults_mask_neither_the_first_nor_supervise_the_last() -> None:
    for seed in range(100):
        example = MaskedDiffusion()(INSIDE, seed / 100, np.random.default_rng(seed))
        assert (example.inputs[0], example.weights[-1]) == (20, 0)


def test_the_last_output_stays_silent_at_a_border_and_in_padding() -> None:
    last = MaskedDiffusion(supervise_last=True)
    for tokens in ([20, 21, 22, BOS], [BOS, 20, PAD, PAD]):
        assert last(Window(np.array(tokens)), 0.5, np.random.default_rng(0)).weights[-1] == 0


def test_the_mean_over_the_window_leaves_padding_out() -> None:
    window = Window(np.array([BOS, 20, 21, 22, PAD, PAD, PAD]))
    for mean_over, divisor in (("maskable", 3), ("window", 4)):
        objective = MaskedDiffusion(mean_over=mean_over, mask_count="bernoulli")
        weights = [objective(window, 0.5, np.random.default_rng(seed)).weights for seed in range(20)]
        assert {float(weight) for row in weights for weight in row} == {0, 2 / divisor}


def test_an_unshifted_model_predicts_its_first_token_too() -> None:
    objective = replace(MaskedDiffusion(), shifted=False, mask_first=True)
    example = objective(INSIDE, 0.0, np.random.default_rng(0))
    assert (example.inputs == MASK).all()
    assert example.weights == pytest.approx(np.full(8, 1 / 8))
    assert (example.targets == INSIDE.inputs).all()


def test_the_last_output_of_an_unshifted_model_has_no_next_token() -> None:
    recipe = Recipe(objective=ObjectiveConfig(shifted=False, supervise_last=True))
    recipe.train.steps = 1
    with pytest.raises(UserError, match=r"objective\.supervise_last: got True, expected false with objective\.shifted"):
        check(recipe)
