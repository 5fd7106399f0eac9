"""Further axes: their levels are never mixed, their differences are paired, and choosing the best of many is no advantage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from dualm.analysis.analyze import analyze, analyze_sweep, write
from dualm.analysis.axes import further_axes
from dualm.analysis.comparison import contests, held_out, level_differences
from dualm.analysis.report import charts, write_report
from dualm.analysis.table import POOL, Target
from dualm.cli import main
from tests.analysis import synthetic

AR = Target.named("ar")
SCORE = Target.named("average/ar")
DROPOUT = [{"model.dropout": 0.0}, {"model.dropout": 0.1}]
BOTH = [{"model.dropout": d, "optimizer.weight_decay": w} for d in (0.0, 0.1) for w in (0.1, 0.8)]
GRID = [(R, alpha) for R in (1, 8, 64) for alpha in POOL[::2]]


def dropped(R: float, alpha: float, level: dict[str, Any]) -> float:
    """Dropout helps by 0.03 where data repeat, and moves the best ratio."""
    best = 0.25 if level.get("model.dropout") else 0.75
    return 4 + 0.2 * (alpha - best) ** 2 - (0.03 if level.get("model.dropout") and R > 1 else 0)


def test_an_axis_is_further_unless_it_follows_from_the_size() -> None:
    table = synthetic.ends(dropped, GRID, levels=DROPOUT).assign(**{"data.repetitions": 1, "train.precision": "fp32"})
    assert further_axes(table) == ["model.dropout"]
    wide = table.assign(parameters=2_400_000, run="wide-" + table["run"])
    sizes = pd.concat([table.assign(**{"model.layers": 2}), wide.assign(**{"model.layers": 4})])
    assert further_axes(sizes) == ["model.dropout"]
    assert further_axes(table[table["model.dropout"] == 0]) == []


def test_levels_are_analysed_as_if_each_were_alone(tmp_path: Path) -> None:
    table = synthetic.ends(dropped, GRID, seeds=(0, 1), levels=DROPOUT, noise=0.002)
    sweep = analyze_sweep(table)
    assert list(sweep.groups) == ["model.dropout=0.0", "model.dropout=0.1"]
    for label, level in zip(sweep.groups, DROPOUT, strict=True):
        alone = analyze(table[table["model.dropout"] == level["model.dropout"]])
        pd.testing.assert_frame_equal(sweep.groups[label].best["ar"], alone.best["ar"])
    without, with_dropout = (group.best["ar"]["alpha"].iloc[0] for group in sweep.groups.values())
    assert abs(without - 0.75) < 0.15
    assert abs(with_dropout - 0.25) < 0.15
    write(sweep, tmp_path)
    best = pd.read_csv(tmp_path / "best_alpha.csv")
    assert set(best["group"]) == set(sweep.groups)
    assert set(json.loads((tmp_path / "analysis.json").read_text())["surfaces"]) == {
        "ar, model.dropout=0.0",
        "ar, model.dropout=0.1",
    }
    names = [chart.name for chart in charts(sweep)]
    assert len(names) == len(set(names))
    assert {chart.tab for chart in charts(sweep) if chart.group == "surface"} == {
        f"validation loss, {label}" for label in sweep.groups
    }
    page = write_report(sweep, tmp_path).read_text()
    assert "The levels of each axis" in page
    assert "validation loss, model.dropout=0.1" in page


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by ten times the effect; pairs of one seed do not. The interval holds the truth and not 0."""
    table = synthetic.ends(dropped, [(8, 0.5)], seeds=range(5), levels=DROPOUT, noise=0.002, of_seed=0.3)
    (row,) = level_differences(table, [AR]).to_dict("records")
    assert (row["axis"], row["base"], row["level"], row["seeds"]) == ("model.dropout", "0.0", "0.1", 5)
    assert row["low"] < -0.03 < row["high"] < 0
    assert row["better"] == "0.1"
    wide = table.pivot_table(index="seed", columns="model.dropout", values="valid/ar_nll")
    assert row["difference"] == pytest.approx((wide[0.1] - wide[0.0]).mean())


def test_differences_hold_every_other_axis_fixed() -> None:
    table = synthetic.ends(dropped, GRID[:2], seeds=(0, 1), levels=BOTH)
    rows = level_differences(table, [AR])
    assert set(rows["axis"]) == {"model.dropout", "optimizer.weight_decay"}
    dropout = rows[rows["axis"] == "model.dropout"]
    assert set(dropout["others"]) == {"optimizer.weight_decay=0.1", "optimizer.weight_decay=0.8"}
    assert len(rows) == 2 * 2 * 2  # axes, levels of the other, points
    assert rows.loc[rows["axis"] == "optimizer.weight_decay", "difference"].abs().max() < 1e-12


def test_higher_scores_are_better_and_one_seed_cannot_tell() -> None:
    table = synthetic.ends(dropped, [(8, 0.5)], seeds=range(3), levels=DROPOUT, noise=1e-4)
    table["task/average/ar"] = 10 * table["valid/ar_nll"]
    loss, score = level_differences(table, [AR, SCORE])["better"]
    assert (loss, score) == ("0.1", "0.0")
    alone = level_differences(table[table["seed"] == 0], [AR]).iloc[0]
    assert alone["better"] == ""
    assert np.isnan(alone["low"])


def test_the_best_of_many_is_no_advantage() -> None:
    """A side with forty equal candidates against one with four: no difference on average, and intervals that cover 0."""
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((4, 40)), rng.standard_normal((4, 4))) for _ in range(400)]
    naive = np.mean([many.mean(0).min() - few.mean(0).min() for many, few in pairs])
    measured = np.array([held_out(many) - held_out(few) for many, few in pairs])
    assert naive < -0.4
    assert abs(measured.mean()) < 0.08
    half = 3.182 * measured.std(axis=1, ddof=1) / 2  # t(0.975, 3) / sqrt(4)
    assert 0.9 < (np.abs(measured.mean(1)) <= half).mean() <= 0.99


def test_a_seed_is_measured_on_the_choice_of_the_others() -> None:
    costs = np.array([[0.0, 5.0], [3.0, 2.0], [3.0, 1.0]])
    # without seed 0 the second is better on average (1.5), without seed 1 the first (1.5 against 3), without seed 2 also (1.5, 3.5)
    assert held_out(costs).tolist() == [5.0, 3.0, 3.0]
    assert held_out(costs[:1]).tolist() == [0.0]
    assert np.isnan(held_out(np.array([[1.0], [np.nan]]))).tolist() == [True, True]


def test_the_best_of_each_against_the_best_mixture() -> None:
    """The mixture 1/4 is best with dropout, AR alone without it: each has its own best level."""
    table = synthetic.ends(
        dropped, [(8, alpha) for alpha in (0, 1 / 4, 3 / 4, 1)], range(4), BOTH, noise=0.001, of_seed=0.2
    )
    table["task/average/ar"] = 100 - 10 * table["valid/ar_nll"]
    rows = contests(table, [AR, SCORE])
    final = rows[(rows["target"] == "ar") & (rows["value"] == "final")]
    against_ar = final[final["alone_at"].str.startswith("alpha=1,")].iloc[0]
    assert against_ar["mixture_at"].startswith("alpha=1/4, model.dropout=0.1")
    assert against_ar["alone_at"].startswith("alpha=1, model.dropout=0.0")
    truth = dropped(8, 0.25, DROPOUT[1]) - dropped(8, 1, DROPOUT[0])
    assert against_ar["low"] < truth < against_ar["high"] < 0
    assert set(rows["better"]) == {"mixture"}
    assert set(rows.loc[rows["target"] == "average/ar", "value"]) == {"final"}
    assert (rows.loc[rows["target"] == "average/ar", "difference"] > 0).all()
    one = contests(table[table["seed"] == 0], [AR])
    assert set(one["better"]) == {""}
    assert contests(table[table["alpha"].isin([0, 1])], [AR]).empty


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = synthetic.ends(dropped, GRID, seeds=(0, 1), levels=DROPOUT, noise=0.002).assign(
        ar_exposures=1.0, md_exposures=1.0
    )
    table.assign(epochs=1.0).to_csv(tmp_path / "results.csv", index=False)
    assert main(["analyze", str(tmp_path), "--suggest", "1", "--target", "ar"]) == 0
    assert "the levels of each axis, level minus base" in capsys.readouterr().out
    points = yaml.safe_load((tmp_path / "analysis" / "suggested.yaml").read_text())["points"]
    assert [point["model.dropout"] for point in points] == [0.0, 0.1]
    assert main(["analyze", str(tmp_path), "--target", "avrage"]) == 2
    assert capsys.readouterr().err.startswith("dualm: --target: got 'avrage', expected a column valid/")
