"""The AR ratio is exact at every moment, for constants and for schedules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualm.config import ObjectiveConfig
from dualm.plan.mixture import Mixture, alpha_schedule, published_alpha

shares = st.floats(0, 1)


def names(mixture: Mixture, count: int) -> list[str]:
    return [mixture.name(micro) for micro in range(count)]


@given(shares, shares, st.integers(1, 9), st.integers(1, 40))
def test_counts_are_off_by_less_than_one(alpha: float, prefix_fraction: float, per_step: int, steps: int) -> None:
    mixture = Mixture.of(np.full(steps, alpha), per_step, ObjectiveConfig(prefix_fraction=prefix_fraction))
    drawn = np.array(names(mixture, steps * per_step))
    ar = np.cumsum(drawn != "masked_diffusion")
    assert np.all(np.abs(ar - alpha * np.arange(1, len(drawn) + 1)) < 1)
    prefix = np.cumsum(drawn == "prefix")
    assert np.all(np.abs(prefix - prefix_fraction * ar) < 1)


@given(st.lists(shares, min_size=1, max_size=30), st.integers(1, 5))
def test_schedules_are_as_exact_as_constants(alpha: list[float], per_step: int) -> None:
    mixture = Mixture.of(np.array(alpha), per_step, ObjectiveConfig())
    drawn = np.array(names(mixture, len(alpha) * per_step))
    assert np.all(np.abs(np.cumsum(drawn == "autoregressive") - np.cumsum(np.repeat(alpha, per_step))) < 1)


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, {"masked_diffusion"}), (1.0, {"autoregressive"})])
def test_the_ends_are_pure(alpha: float, expected: set[str]) -> None:
    assert set(names(Mixture.of(np.full(50, alpha), 4, ObjectiveConfig()), 200)) == expected


def test_ar_before_counts_what_name_says_beyond_the_last_step() -> None:
    mixture = Mixture.of(np.array([0.2, 0.9, 0.4]), 3, ObjectiveConfig())
    flags = np.array([mixture.name(micro) == "autoregressive" for micro in range(30)])
    assert mixture.ar_before(np.arange(31)).tolist() == [0, *np.cumsum(flags).tolist()]


@pytest.mark.parametrize(("repetitions", "alpha"), [(1, 63 / 64), (16, 63 / 64), (32, 0.5), (128, 1 / 8)])
def test_the_published_rule(repetitions: int, alpha: float) -> None:
    assert published_alpha(repetitions) == alpha
    assert alpha_schedule("auto", repetitions, 5).tolist() == [alpha] * 5


def test_knots_are_joined_by_lines_over_the_whole_training() -> None:
    assert alpha_schedule([[0, 1], [0.5, 0], [1, 0.5]], 1, 5).tolist() == pytest.approx([1, 0.5, 0, 0.25, 0.5])
