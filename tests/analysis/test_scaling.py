"""Data-constrained scaling: a known R_D* is recovered, and one that the runs do not determine is not reported."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dualm.analysis.scaling import effective, fit_scaling, scaling_fits
from dualm.errors import UserError

BUDGETS = (1e8, 3e8, 1e9)
REPETITIONS = (1, 2, 4, 8, 16, 32, 64, 128)


def runs(half_life: float, noise: float, seed: int = 0, budgets=BUDGETS, sizes=(1e7,)) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    grid = [(f"{T:g}-{R}-{N:g}", T / R, float(R), N) for T in budgets for R in REPETITIONS for N in sizes]
    points = pd.DataFrame(grid, columns=["run", "U", "E", "N"])
    worth = effective(points["U"].to_numpy(), points["E"].to_numpy(), half_life)
    size = 0.4 * (points["N"] / 1e7) ** -0.3 if len(sizes) > 1 else 0
    exact = 2 + 1.5 * (worth / 1e9) ** -0.35 + size
    return points.assign(loss=exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(points))))


def test_effective_data_is_the_tokens_at_first_and_saturates() -> None:
    unique, once, often = np.array([1e6]), np.array([1.0]), np.array([1e9])
    assert effective(unique, once, 15) == pytest.approx(unique)
    assert effective(unique, often, 15) == pytest.approx(16 * unique)
    assert effective(unique, np.array([2.0]), 1e4) == pytest.approx(2 * unique, rel=1e-3)


@pytest.mark.parametrize("half_life", [15.0, 120.0])
def test_a_known_half_life_is_recovered(half_life: float) -> None:
    fits = [fit_scaling(runs(half_life, 0.003, seed), "AR", "ar") for seed in range(10)]
    assert all(fit.determined == "yes" for fit in fits)
    assert np.mean([fit.half_life for fit in fits]) == pytest.approx(half_life, rel=0.05)
    assert sum(fit.half_life_low <= half_life <= fit.half_life_high for fit in fits) >= 7  # of 10 at 90 %
    assert fits[0].beta == pytest.approx(0.35, abs=0.05)
    assert fits[0].scale == pytest.approx(1.5 * 1e9**0.35, rel=0.7)
    assert fits[0].effective_data(1e6, 1) == pytest.approx(1e6)


def test_sizes_have_their_own_term() -> None:
    fit = fit_scaling(runs(15, 0.001, budgets=BUDGETS[:2], sizes=(1e7, 4e7, 1.6e8)), "AR", "ar")
    assert fit.size_exponent is not None
    assert fit.half_life == pytest.approx(15, rel=0.1)
    assert fit.residual < 0.002


def test_an_outlier_has_little_influence() -> None:
    points = runs(15, 0.001)
    points.loc[5, "loss"] *= 1.3
    assert fit_scaling(points, "AR", "ar").half_life == pytest.approx(15, rel=0.05)


def test_a_half_life_far_beyond_one_small_sweep_is_not_reported() -> None:
    fits = [fit_scaling(runs(400, 0.003, seed, BUDGETS[-1:]), "MD", "md", 494) for seed in range(3)]
    assert all(fit.determined in ("no", "at least", "at most") for fit in fits)
    assert all(fit.half_life_low <= 400 <= fit.half_life_high for fit in fits)
    assert {"no": "not determined by these runs"}.get(fits[0].determined, fits[0].half_life_label) == fits[
        0
    ].half_life_label


def test_too_few_runs_are_reported() -> None:
    with pytest.raises(UserError, match="scaling of AR: got 3 finished runs at 3 R"):
        fit_scaling(runs(15, 0).head(3), "AR", "ar")


def test_runs_are_grouped_by_what_trained_them() -> None:
    points = runs(15, 0.001, budgets=BUDGETS[-1:])
    tables = []
    for alpha in (0.0, 0.25, 1.0):
        about = {"alpha": alpha, "R": points["E"].astype(int), "seed": 0, "step": 1, "tokens": 1e9, "finished": True}
        named = points.rename(columns={"U": "unique_tokens", "N": "parameters", "loss": "valid/ar_nll"}).assign(**about)
        tables.append(named.assign(run=named["run"] + f"-{alpha}", **{"valid/md_nelbo": named["valid/ar_nll"] + 0.5}))
    fits, left_out = scaling_fits(pd.concat(tables))
    found = [(fit.group, fit.reading) for fit in fits]
    mixed = ["best mixture at each R", "alpha = 1/4"]
    assert found == [(name, "ar") for name in ["AR (alpha = 1)", *mixed]] + [
        (n, "md") for n in ["MD (alpha = 0)", *mixed]
    ]
    assert not left_out
