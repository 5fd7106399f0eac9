"""Seeds: merging is what one computes by hand, intervals have their coverage, and one seed has none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from dualm.analysis.analyze import analyze, analyze_sweep
from dualm.analysis.optimum import best_alpha
from dualm.analysis.overfitting import mean_curves, merged, overfitting
from dualm.analysis.replicates import Estimate, cells, over_seeds, with_half
from dualm.analysis.report import charts
from dualm.analysis.report_tables import tables
from dualm.analysis.scaling import scaling_points
from dualm.analysis.surface import Warp, fit_surface, replicate_variance, separate, unite
from dualm.analysis.table import POOL, Target, last, surface_points
from tests.analysis import synthetic
from tests.analysis.test_surface import REPETITIONS, losses

AR = Target.named("ar")
GRID = [(R, alpha) for R in (1, 8, 64) for alpha in (0, 1 / 4, 3 / 4, 1)]


def flat(R: float, alpha: float, level: object) -> float:
    return 4.0


def test_an_interval_is_that_of_a_t_test_and_one_seed_has_none() -> None:
    values = [4.0, 4.1, 4.3]
    found, known = Estimate.of(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high, found.seeds) == (
        pytest.approx(np.mean(values)),
        pytest.approx(known.low),
        pytest.approx(known.high),
        3,
    )
    assert math.isnan(Estimate.of([4.0]).half)
    assert with_half(4, math.nan) == "4.000"
    assert with_half(4, 0.01) == "4.000 ± 0.010"


def test_merging_is_the_hand_computation_and_covers_the_truth() -> None:
    table = synthetic.ends(flat, [(1, n / 500) for n in range(500)], seeds=range(3), noise=0.1)
    points = surface_points(table, AR)
    assert points["seeds"].eq(3).all()
    one = table[table["alpha"] == 7 / 500]["valid/ar_nll"]
    row = points[points["alpha"] == 7 / 500].iloc[0]
    assert (row["run"], row["value"], row["value_sd"]) == (
        "R1-a0.014",
        pytest.approx(one.mean()),
        pytest.approx(one.std()),
    )
    assert 0.92 < (np.abs(points["value"] - 4) <= points["value_half"]).mean() < 0.98


def test_runs_that_differ_in_more_than_the_seed_are_not_merged() -> None:
    levels = [{"model.dropout": 0.0}, {"model.dropout": 0.1}]
    table = synthetic.ends(flat, GRID, seeds=(0, 1), levels=levels)
    assert cells(table).value_counts().eq(2).all()
    assert cells(table).nunique() == 2 * len(GRID)
    wider = pd.concat([table, table.assign(parameters=2_400_000, run="wide-" + table["run"])])
    assert cells(wider).nunique() == 4 * len(GRID)


def test_one_seed_is_as_before() -> None:
    """The points of the surface are the last losses of the runs, with no noise known, and names keep their seed."""
    table = synthetic.results(validations=4)
    points, runs = surface_points(table, AR), last(table, "valid/ar_nll")
    assert points["run"].tolist() == runs["run"].tolist()
    before = fit_surface(runs[["R", "alpha"]].assign(value=runs["valid/ar_nll"]), "ar")
    now = fit_surface(points, "ar")
    assert now.replicate == 0
    np.testing.assert_array_equal(now.predict(REPETITIONS, np.array(POOL)), before.predict(REPETITIONS, np.array(POOL)))
    rises = overfitting(table)
    pd.testing.assert_frame_equal(
        merged(rises, table)[rises.columns], rises, check_dtype=False, check_column_type=False
    )


@pytest.mark.parametrize("power", [0, 1])
def test_the_noise_of_replicates_is_recovered(power: int) -> None:
    """Equal in nats, or in proportion to the distance from the floor: 2 % of it in the target."""
    rng = np.random.default_rng(0)
    exact = 4 + np.geomspace(0.5, 4, 300)
    sd = 0.02 * (exact - 4) ** power
    runs = exact + sd * rng.standard_normal((3, 300))
    points = pd.DataFrame({"value": runs.mean(0), "seeds": 3, "value_sd": runs.std(0, ddof=1)})
    warp = Warp(1, 4.0, spread=2.0)
    found = np.sqrt(replicate_variance(points, warp))
    np.testing.assert_allclose(found / (sd * warp.slope(exact)), 1, atol=0.15)
    assert not replicate_variance(points.assign(seeds=1), warp).any()
    few = np.sqrt(replicate_variance(points.head(5), warp))
    assert few.std() < 1e-9  # too few for a trend


def test_a_surface_of_three_seeds_is_nearer_to_the_known_optimum() -> None:
    fine = unite(np.linspace(separate(np.array(0.0)), separate(np.array(1.0)), 2001))
    true = separate(np.array([fine[losses(np.full(2001, R), fine).argmin()] for R in REPETITIONS]))
    pool = [(int(R), alpha) for R in REPETITIONS for alpha in POOL]

    def truth(R: float, alpha: float, level: object) -> float:
        return float(losses(np.array(float(R)), np.array(alpha)))

    covered, errors = [], {1: [], 3: []}
    for random in range(30):
        chosen = [pool[n] for n in np.random.default_rng(random).choice(len(pool), 32, replace=False)]
        table = synthetic.ends(truth, chosen, seeds=range(3), noise=0.03, random=random)
        for seeds in errors:
            surface = fit_surface(surface_points(table[table["seed"] < seeds], AR), "ar", restarts=0)
            assert len(surface.process.targets) == 32  # a point each, however many seeds
            best = best_alpha(surface, REPETITIONS.tolist())
            low, alpha, high = (separate(best[name].to_numpy()) for name in ("low", "alpha", "high"))
            errors[seeds].append(np.abs(alpha - true).mean())
        covered.append((low - 0.13 <= true) & (true <= high + 0.13))
    assert np.mean(covered) >= 0.86
    assert np.mean(errors[3]) < 0.8 * np.mean(errors[1])


def test_overfitting_over_seeds() -> None:
    table = synthetic.with_seeds()
    rises = overfitting(table)
    rows = merged(rises, table)
    assert len(rows) * 3 == len(rises)
    own = rises[rises["run"].str.startswith("R64-alpha1-") & (rises["reading"] == "ar")]
    row = rows[(rows["run"] == "R64-alpha1") & (rows["reading"] == "ar")].iloc[0]
    assert row["gap"] == pytest.approx(own["gap"].mean())
    assert row["gap_half"] == pytest.approx(Estimate.of(own["gap"]).half)
    assert (row["seeds"], row["overfitting"], row["overfits"]) == (3, 3, True)
    curve = mean_curves(table, cells(table), "ar")["R64-alpha1"]
    runs = table[table["run"].str.startswith("R64-alpha1-")].sort_values("step")
    np.testing.assert_allclose(curve["loss"], runs.groupby("step")["valid/ar_nll"].mean())
    assert curve["loss_half"].gt(0).all()


def test_spread_seeds_do_not_overfit_with_certainty() -> None:
    """Three seeds with the same mean rise: known if they agree, not if they differ by as much as the rise."""
    table = synthetic.ends(flat, [(8, 1.0)], seeds=range(3)).drop(columns="valid/ar_nll")
    for rises, expected in (((0.2, 0.2, 0.2), True), ((0.6, 0.0, 0.0), False)):
        curves = [
            table[table["seed"] == seed].assign(step=step, **{"valid/ar_nll": 4 + rise * step})
            for seed, rise in enumerate(rises)
            for step in (0, 1)
        ]
        rows = pd.concat(curves)
        (row,) = merged(overfitting(rows), rows).to_dict("records")
        assert row["gap"] == pytest.approx(0.2)
        assert row["overfits"] == expected


def test_the_whole_analysis_merges_seeds() -> None:
    table = synthetic.with_seeds()
    sweep = analyze_sweep(table)
    group = sweep.groups[""]
    assert set(scaling_points(table, "ar")["seeds"]) == {3}
    assert group.surfaces["ar"].points["seeds"].eq(3).all()
    assert len(group.surfaces["ar"].points) == 49
    assert "3 seeds" in group.findings[0].parts[0].statement
    bands = [
        mark
        for chart in charts(sweep)
        if chart.name == "curves-ar"
        for panel in chart.panels
        for mark in panel.marks
        if getattr(mark, "low", None)
    ]
    assert len(bands) == 49  # a line with a band for each point, not one for each run
    (runs,) = (table for table in tables(sweep) if table.name == "runs")
    assert len(runs.rows) == 49
    assert any(cell.text == "3 seeds" for cell in runs.rows[0])
    assert sum("±" in cell.text for cell in runs.rows[0]) == 9  # end, lowest and rise of three readings


def test_a_point_with_a_missing_seed_keeps_its_own_number() -> None:
    table = synthetic.with_seeds()
    gone = table[~((table["R"] == 64) & (table["alpha"] == 1) & (table["seed"] > 0))]
    analysis = analyze(gone)
    points = analysis.surfaces["ar"].points
    assert points.loc[(points["R"] == 64) & (points["alpha"] == 1), ["run", "seeds"]].to_numpy().tolist() == [
        ["R64-alpha1-s0", 1]
    ]


def test_columns_that_are_not_merged_keep_their_first_value() -> None:
    rows = pd.DataFrame({"run": ["a-s0", "a-s1"], "value": [1.0, 3.0], "R": [2, 2]})
    (row,) = over_seeds(rows, pd.Series({"a-s0": "a", "a-s1": "a"}), ["value"]).to_dict("records")
    assert (row["run"], row["value"], row["R"], row["seeds"]) == ("a", 2.0, 2, 2)
