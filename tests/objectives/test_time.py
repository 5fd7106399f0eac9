"""Densities of t are densities, and quantiles are drawn as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dualm.config import ObjectiveConfig
from dualm.errors import UserError
from dualm.objectives.time import DENSITIES, DRAWS, Density, density, histogram

CASES = {
    **{name: ObjectiveConfig(time=name) for name in DENSITIES},
    "narrow bell": ObjectiveConfig(time="bell", time_mean=0.35, time_std=0.1),
    "bell at the edge": ObjectiveConfig(time="bell", time_mean=0.9, time_std=0.3, time_min=0.2),
    "linear from some noise on": ObjectiveConfig(time="linear_sigma", time_sigma=[1e-3, 7.0]),
    "skewed beta": ObjectiveConfig(time="beta", time_beta=[0.7, 3.0]),
}
cases = pytest.mark.parametrize("config", CASES.values(), ids=CASES)
U = (np.arange(20_000) + 0.5) / 20_000


@cases
def test_quantiles_invert_the_distribution(config: ObjectiveConfig) -> None:
    q = density(config)
    t = np.array([q.quantile(u) for u in U])
    assert t.min() > 0
    assert t.max() <= 1
    assert np.all(np.diff(t) <= 0)
    assert np.array([q.cdf(value) for value in t]) == pytest.approx(1 - U, abs=1e-6)
    assert t.mean() == pytest.approx(q.mean, abs=1e-3)


@cases
def test_the_slope_is_that_of_the_quantile(config: ObjectiveConfig) -> None:
    q = density(config)
    for s in (0.101, 0.333, 0.512, 0.777, 0.901):
        numeric = (q.inverse(s + 1e-5) - q.inverse(s - 1e-5)) / 2e-5
        assert q.slope(q.inverse(s)) == pytest.approx(numeric, rel=1e-3)


def test_a_bell_is_the_truncated_gaussian() -> None:
    """Against draws of a Gaussian from which those outside are thrown away."""
    q = density(ObjectiveConfig(time="bell", time_mean=0.35, time_std=0.3, time_min=0.1))
    drawn = np.random.default_rng(0).normal(0.35, 0.3, 400_000)
    kept = np.sort(drawn[(drawn >= 0.1) & (drawn <= 1)])
    ours = [q.inverse(s) for s in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert ours == pytest.approx(np.quantile(kept, [0.1, 0.25, 0.5, 0.75, 0.9]), abs=0.005)
    assert q.mean == pytest.approx(kept.mean(), abs=0.003)


def test_a_histogram_puts_its_mass_where_it_says() -> None:
    q: Density = histogram([1, 0.5, 2.5])
    t = np.array([q.quantile(u) for u in U])
    assert np.histogram(t, [0, 1 / 3, 2 / 3, 1])[0] / len(t) == pytest.approx([0.25, 0.125, 0.625], abs=1e-3)
    assert [1 / q.slope(value) for value in (0.2, 0.5, 0.9)] == pytest.approx([0.75, 0.375, 1.875])


def test_noise_schedules_are_those_of_the_papers() -> None:
    """alpha_s = 1 - t(s) written out."""
    s = 0.3
    assert DENSITIES["cosine_md4"](ObjectiveConfig()).inverse(s) == pytest.approx(np.cos(np.pi / 2 * (1 - s)))
    assert DENSITIES["cosine_mdlm"](ObjectiveConfig()).inverse(s) == pytest.approx(1 - np.cos(np.pi / 2 * s))
    assert DENSITIES["cosine_squared"](ObjectiveConfig()).inverse(s) == pytest.approx(1 - np.cos(np.pi / 2 * s) ** 2)
    assert DENSITIES["linear_sigma"](ObjectiveConfig()).inverse(s) == pytest.approx(1 - np.exp(-10 * s))
    assert DENSITIES["polynomial"](ObjectiveConfig(time_power=3)).inverse(s) == pytest.approx(s**3)
    sigma = 1e-3 ** (1 - s) * 20**s
    assert DENSITIES["geometric"](ObjectiveConfig()).inverse(s) == pytest.approx(1 - np.exp(-sigma))


def test_the_two_cosines_curve_in_opposite_ways() -> None:
    """Half of the time is spent above a mask rate of 71 % by MD4's cosine, below 29 % by that of MDLM's code."""
    medians = [DENSITIES[name](ObjectiveConfig()).inverse(0.5) for name in ("cosine_md4", "cosine_mdlm")]
    assert medians == pytest.approx([np.sqrt(0.5), 1 - np.sqrt(0.5)])


@cases
def test_a_grid_takes_each_of_its_rates_equally_often(config: ObjectiveConfig) -> None:
    q, steps = density(config), 7
    grid = density(replace(config, time_steps=steps))
    rates = [q.inverse(i / steps) for i in range(1, steps + 1)]
    drawn, counts = np.unique([grid.quantile(u) for u in U], return_counts=True)
    assert drawn.tolist() == rates
    assert counts / len(U) == pytest.approx(1 / steps, abs=1e-3)
    assert grid.mean == pytest.approx(np.mean(rates))
    for i, rate in enumerate(rates):
        assert grid.cdf(rate) == pytest.approx((i + 1) / steps)
        assert grid.cdf(rate - 1e-9) == pytest.approx(i / steps)
        assert grid.slope(rate) == pytest.approx(steps * (rate - (rates[i - 1] if i else 0)))


def test_a_fine_grid_is_the_density() -> None:
    """Whose slope at the end of a step is that of the density there, as far as one step reaches."""
    q = density(ObjectiveConfig(time="cosine_mdlm"))
    grid = density(ObjectiveConfig(time="cosine_mdlm", time_steps=10_000))
    for s in (0.2, 0.5, 0.9):
        assert grid.inverse(s) == pytest.approx(q.inverse(s), abs=1e-3)
        assert grid.slope(grid.inverse(s)) == pytest.approx(q.slope(q.inverse(s)), rel=1e-3)


def test_stratified_draws_have_one_u_in_every_stratum() -> None:
    for n in (1, 7, 64):
        u = DRAWS["stratified"](np.random.default_rng(n), n)
        assert sorted(np.floor(u * n).astype(int)) == list(range(n))
        assert all((u >= 0) & (u < 1))


def test_iid_draws_are_independent() -> None:
    u = DRAWS["iid"](np.random.default_rng(0), 2000)
    filled = len(set(np.floor(u * 2000).astype(int)))
    assert abs(filled / 2000 - (1 - np.exp(-1))) < 0.03  # strata left empty as by chance


def test_an_unknown_density_is_named() -> None:
    with pytest.raises(UserError, match=r"objective\.time: got 'sometimes', expected uniform or bell or beta"):
        density(ObjectiveConfig(time="sometimes"))
