"""Every verdict can occur: with results as published, with opposite results, and with too few runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dualm.analysis.analyze import Analysis, analyze, analyze_sweep, write
from dualm.analysis.surface import separate
from dualm.analysis.table import POOL, targets
from dualm.cli import main
from tests.analysis import synthetic

REPETITIONS = (8, 16, 32, 64, 128)
STEPS = np.linspace(0, 1, 13)[1:]


def world(as_published: bool) -> pd.DataFrame:
    """Sixty runs. As published: alpha * R = 4 is best, AR overfits. Otherwise: MD alone is best at every R and overfits."""
    rng = np.random.default_rng(0)
    tables = []
    for R in REPETITIONS:
        for alpha in POOL:
            best = separate(np.array(4 / R if as_published else 0.0))
            worse = 0.05 * (separate(np.array(alpha)) - best) ** 2
            rise = {"ar": alpha, "md": 1 - alpha}["ar" if as_published else "md"] * R / 128
            end = 4 + worse + 0.05 * np.log2(R)
            falling = end + 0.5 * (1 - STEPS) ** 2
            rising = falling + rise * np.maximum(0, STEPS - 0.5) * 2
            noise = 0.002 * rng.standard_normal((2, len(STEPS)))
            losses = {"ar": rising if as_published else falling, "md": falling if as_published else rising}
            about = {"R": R, "alpha": alpha, "seed": 0, "unique_tokens": 2**20 // R, "parameters": 10, "finished": True}
            rows = pd.DataFrame({"run": f"{R}-{alpha:g}", "step": np.arange(12), "tokens": STEPS * 2**20}).assign(
                **about
            )
            rows["valid/ar_nll"], rows["valid/md_nelbo"] = losses["ar"] + noise[0], losses["md"] + 1 + noise[1]
            rows["valid/ar_nll_second_half"] = rows["valid/ar_nll"] - 0.02
            shift = -0.03 if as_published else 0.03
            rows["valid/prefix_nll"] = rows["valid/ar_nll_second_half"] + shift + noise[1]
            errors = ("ar_nll", "md_nelbo", "prefix_nll", "ar_nll_second_half")
            tables.append(rows.assign(**{f"valid/{name}_se": 0.01 for name in errors}))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def published() -> Analysis:
    return analyze(world(True))


def test_results_as_published_show_the_claims(published: Analysis) -> None:
    assert {finding.key: finding.verdict for finding in published.findings} == dict.fromkeys("abcd", "shows")
    rise = published.findings[0].parts[0].figures
    assert rise["R"] == 128
    assert rise["gap"] == pytest.approx(0.88, abs=0.15)


def test_opposite_results_do_not() -> None:
    verdicts = {finding.key: finding for finding in analyze(world(False)).findings}
    assert [finding.verdict for finding in verdicts.values()].count("does not show") >= 3
    assert verdicts["a"].verdict == verdicts["b"].verdict == verdicts["d"].verdict == "does not show"
    assert verdicts["c"].verdict != "shows"


def test_four_runs_cannot_tell_and_the_reason_is_given() -> None:
    few = world(True)
    few = few[few["R"].eq(8) & few["alpha"].isin([0.25, 0.5])]
    analysis = analyze(few)
    assert {finding.verdict for finding in analysis.findings[:3]} == {"cannot tell"}
    assert not analysis.surfaces
    assert any(line.startswith("surface of ar: got 2 points") for line in analysis.left_out)
    assert any(line.startswith("scaling of AR (alpha = 1): got 0 finished runs") for line in analysis.left_out)


def scored(as_published: bool) -> pd.DataFrame:
    """The world with average scores at the end of each run, the higher the lower its MD loss is, and higher with a prefix."""
    table = world(as_published)
    end = table["step"].eq(table["step"].max())
    for n, (mode, shift) in enumerate({"ar": 0.0, "pll": 0.0, "prefix": 0.5}.items()):
        noise = 0.01 * np.random.default_rng(n).standard_normal(len(table))
        table[f"task/average/{mode}"] = (60 - 10 * (table["valid/md_nelbo"] - 5) + shift + noise).where(end)
        table[f"task/average/{mode}_se"] = 0.05
    return table


def test_the_claims_on_average_scores() -> None:
    """Higher is better; both readings are AR and PLL; overfitting needs curves, which scores do not have."""
    analysis = analyze(scored(True))
    averages = {finding.key: finding for finding in analysis.findings if finding.about == "average score"}
    losses = {finding.key: finding.verdict for finding in analysis.findings if finding.about == "validation loss"}
    assert losses == dict.fromkeys("abcd", "shows")
    assert {key: finding.verdict for key, finding in averages.items()} == {"a": "cannot tell"} | dict.fromkeys(
        "bcd", "shows"
    )
    assert all("needs curves" in part.statement for part in averages["a"].parts)
    assert [part.statement.partition(":")[0] for part in averages["b"].parts] == [
        "average score, ar mode (task/average/ar)",
        "average score, pll mode (task/average/pll)",
    ]
    assert averages["d"].parts[0].figures["difference"] == pytest.approx(0.5, abs=0.02)
    assert averages["d"].parts[0].statement.startswith("task/average/prefix minus task/average/ar is +0.")


def test_worse_scores_with_a_prefix_do_not_show_that_it_wins() -> None:
    table = scored(True)
    table["task/average/prefix"] -= 1.0
    (last,) = [each for each in analyze(table).findings if (each.key, each.about) == ("d", "average score")]
    assert last.verdict == "does not show"


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["average"], ["average/ar", "average/pll", "average/prefix"]),
        (["task/average/ar", "md"], ["average/ar", "md"]),
        (["loss", "ar"], ["ar", "md", "prefix"]),
        (["valid/ar_nll_second_half"], ["valid/ar_nll_second_half"]),
    ],
)
def test_targets_are_chosen(wanted: list[str], names: list[str]) -> None:
    assert [target.name for target in targets(scored(True), wanted)] == names


def test_runs_without_a_score_have_no_claims_on_it() -> None:
    table = scored(True)
    levels = [table.assign(**{"model.dropout": level, "run": f"{level}-" + table["run"]}) for level in (0.0, 0.1)]
    levels[1] = levels[1].drop(columns=[name for name in table.columns if name.startswith("task/")])
    with_scores, without = analyze_sweep(pd.concat(levels)).groups.values()
    assert {finding.about for finding in with_scores.findings} == {"validation loss", "average score"}
    assert {finding.about for finding in without.findings} == {"validation loss"}
    assert "average/ar, average/pll, average/prefix: not measured on these runs" in without.left_out


def test_one_column_has_the_claims_that_need_no_second() -> None:
    table = scored(True)
    (group,) = analyze_sweep(table, ["average/ar"]).groups.values()
    assert {finding.key: finding.claim for finding in group.findings}["b"] == "A mixture beats both ends at every R"
    assert [finding.key for finding in group.findings] == ["a", "b", "c"]
    assert set(group.surfaces) == {"average/ar"}
    assert [surface.name for surface in group.of_objectives] == ["average/ar"]


def test_task_scores_get_a_surface_where_higher_is_better() -> None:
    table = world(True)
    table["task/blimp/ar"], table["task/blimp/ar_se"] = 1 - table["valid/md_nelbo"] / 10, 0.01
    analysis = analyze(table)
    assert set(analysis.surfaces) == {"ar", "md", "prefix", "blimp/ar"}
    close = np.abs(separate(analysis.best["blimp/ar"]["alpha"]) - separate(analysis.best["md"]["alpha"]))
    assert close.max() < 0.6


def test_all_numbers_are_written(tmp_path: Path) -> None:
    write(analyze_sweep(world(True)), tmp_path / "deep" / "out")
    content = json.loads((tmp_path / "deep" / "out" / "analysis.json").read_text())
    assert [finding["key"] for finding in content["findings"]] == list("abcd")
    assert content["surfaces"]["ar"]["leave_one_out"]["r2"] > 0.9
    assert len(pd.read_csv(tmp_path / "deep" / "out" / "overfitting.csv")) == 180
    probabilities = (
        pd.read_csv(tmp_path / "deep" / "out" / "probability_best.csv").groupby(["reading", "R"])["probability"].sum()
    )
    np.testing.assert_allclose(probabilities, 1)


def test_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dualm.analysis.report.write_report", lambda *_: "a page")  # it has its own tests
    table = synthetic.results(validations=8)
    table[table["R"].isin([1, 16, 128])].to_csv(tmp_path / "results.csv", index=False)
    assert main(["analyze", str(tmp_path), "--suggest", "2"]) == 0
    printed = capsys.readouterr().out
    assert "best alpha, ar" in printed
    assert "left out: 1 runs not finished: R128-alpha1-seed0" in " ".join(printed.split())
    points = yaml.safe_load((tmp_path / "analysis" / "suggested.yaml").read_text())["points"]
    assert [set(point) for point in points] == [{"data.repetitions", "objective.alpha"}] * 2


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"dualm: {tmp_path}: holds no results")
    synthetic.results().head(32).to_csv(tmp_path / "results.csv", index=False)
    assert main(["analyze", str(tmp_path), "--suggest", "1"]) == 2
    assert "expected enough runs for a surface" in capsys.readouterr().err
