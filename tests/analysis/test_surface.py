"""The response surface: known optima are recovered, and intervals have their nominal coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dualm.analysis.optimum import best_alpha, probability_best
from dualm.analysis.suggest import suggest, write_points
from dualm.analysis.surface import fit_surface, separate, unite
from dualm.analysis.table import POOL
from dualm.errors import UserError

REPETITIONS = np.array([1, 8, 32, 128])
PUBLISHED = Path(__file__).parent / "published.csv"


def optimum(R: np.ndarray) -> np.ndarray:
    """Separated best alpha: from 63/64 at R = 1 down to 1/16 at 128."""
    return 3.6 - 0.9 * np.log2(R)


def losses(R: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Nats per token: a valley with steep walls, and a much higher loss where AR is not trained."""
    z = separate(alpha)
    valley = 0.15 * np.sqrt(1 + ((z - optimum(R)) / 1.5) ** 2)
    return 4 + valley + 0.05 * np.log2(R) + 2 * np.exp(-(z + 6.24))


def sample(seed: int, runs: int = 32, noise: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    pool = pd.MultiIndex.from_product([REPETITIONS, POOL], names=["R", "alpha"]).to_frame(index=False)
    chosen = pool.iloc[rng.choice(len(pool), runs, replace=False)].reset_index(drop=True)
    exact = losses(chosen["R"].to_numpy(), chosen["alpha"].to_numpy())
    return chosen.assign(value=exact + noise * rng.standard_normal(runs))


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED)


def test_ratios_are_separated_in_order() -> None:
    gaps = np.diff(separate(np.array(POOL)))
    assert gaps.min() > 0.7
    assert gaps.max() < 1.6
    every = separate(np.linspace(0, 1, 1001))
    assert (np.diff(every) > 0).all()
    np.testing.assert_allclose(every, -every[::-1], atol=1e-12)
    np.testing.assert_allclose(unite(separate(np.array(POOL))), POOL, atol=1e-12)


def test_intervals_of_a_known_optimum_have_their_nominal_coverage() -> None:
    fine = unite(np.linspace(separate(np.array(0.0)), separate(np.array(1.0)), 2001))
    true = separate(np.array([fine[losses(np.full(2001, R), fine).argmin()] for R in REPETITIONS]))
    covered, inside, errors = [], [], []
    for seed in range(100):
        surface = fit_surface(sample(seed), "ar", restarts=0)
        best = best_alpha(surface, REPETITIONS.tolist())
        low, alpha, high = (separate(best[name].to_numpy()) for name in ("low", "alpha", "high"))
        covered.append((low - 0.13 <= true) & (true <= high + 0.13))  # half a step of the grid of ratios
        errors.append(np.abs(alpha - true))
        inside.append(list(surface.leave_one_out.inside.values()))
    assert 0.86 <= np.mean(covered) <= 0.98
    assert np.min(np.mean(covered, axis=0)) >= 0.8
    assert np.mean(errors) < 0.6  # half the distance of two published ratios
    np.testing.assert_allclose(np.mean(inside, axis=0), [0.5, 0.8, 0.95], atol=0.1)


def test_leave_one_out_in_closed_form_is_refitting() -> None:
    points = sample(3, runs=20)
    surface = fit_surface(points, "ar", restarts=0)
    closed = surface.leave_one_out.points
    process = surface.process
    target = surface.warp.forward(points["value"].to_numpy())
    for left in range(len(points)):
        rest = np.arange(len(points)) != left
        inputs = process.inputs[rest]
        covariance = process.covariance(inputs, inputs) + (process.noise + 1e-10) * np.eye(rest.sum())
        across = process.covariance(process.inputs[[left]], inputs)
        mean = across @ np.linalg.solve(covariance, target[rest])
        assert closed["predicted"][left] == pytest.approx(surface.warp.inverse(mean)[0], rel=1e-6)


def test_a_warp_has_an_inverse_and_its_slope_is_its_derivative() -> None:
    for higher_is_better in (False, True):
        warp = fit_surface(sample(0), "ar", higher_is_better, restarts=0).warp
        values = np.linspace(4.3, 4.8, 5)
        np.testing.assert_allclose(warp.inverse(warp.forward(values)), values)
        numeric = (warp.forward(values + 1e-6) - warp.forward(values - 1e-6)) / 2e-6
        np.testing.assert_allclose(numeric, warp.sign * warp.slope(values), rtol=1e-5)


def test_errors_of_single_points_count() -> None:
    """A point with a large error moves the surface less."""
    points = sample(1)
    points.loc[0, "value"] += 1.0
    R, alpha = (np.array([points.loc[0, name]]) for name in ("R", "alpha"))
    true = losses(R, alpha)[0]
    plain = fit_surface(points.assign(se=0.01), "ar", restarts=0).predict(R, alpha)["median"][0]
    weighted = fit_surface(points.assign(se=np.where(points.index == 0, 1.0, 0.01)), "ar", restarts=0)
    assert abs(weighted.predict(R, alpha)["median"][0] - true) < 0.25 * abs(plain - true) + 0.02


def test_the_published_averages(published: pd.DataFrame) -> None:
    """Six points, higher is better: the best alpha falls, and AR alone is no candidate where data repeats."""
    surface = fit_surface(published, "average", higher_is_better=True)
    probabilities = probability_best(surface, [1, 32, 128])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities.loc[128, 1.0] < 0.05
    best = best_alpha(surface, [1, 32, 128])
    assert best["alpha"].iloc[-1] < best["alpha"].iloc[0]
    assert best["published_exposures"].tolist() == [63 / 64, 16, 16]
    assert (best["low"] <= best["high"]).all()


def test_too_few_points_are_one_line(published: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="surface of average: got 4 points at 2 R and 3 alpha"):
        fit_surface(published.head(4), "average")


def test_suggestions_are_uncertain_and_near_the_optimum(tmp_path: Path) -> None:
    """R = 32 is known only at alpha 0 and 1, so it is suggested first, near its optimum and not at alpha = 0."""
    everywhere = pd.concat([sample(seed, runs=48, noise=0.005) for seed in range(2)])
    points = everywhere[(everywhere["R"] != 32) | everywhere["alpha"].isin([0, 1])]
    chosen = suggest([fit_surface(points, "ar", restarts=0)], 3)
    assert {each.R for each in chosen[:2]} == {32}
    assert abs(separate(np.array(chosen[0].alpha)) - optimum(np.array(32))) < 2.5
    assert chosen[0].information > 0
    assert len({(each.R, each.alpha) for each in chosen}) == 3
    points = [{"data.repetitions": each.R, "objective.alpha": each.alpha} for each in chosen]
    write_points(points, tmp_path / "next.yaml")
    assert yaml.safe_load((tmp_path / "next.yaml").read_text())["points"] == points


def test_trained_points_are_not_suggested() -> None:
    surface = fit_surface(sample(0, runs=47), "ar", restarts=0)
    (left,) = suggest([surface], 1)
    trained = set(zip(surface.points["R"], surface.points["alpha"], strict=True))
    assert (left.R, left.alpha) not in trained
    with pytest.raises(UserError, match="--suggest: got 2, expected at most the 1 points not trained yet"):
        suggest([surface], 2)
