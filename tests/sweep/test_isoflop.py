"""Sweeps at equal compute: every size spends every budget, to within a step, and the SMDM ladder is as published."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dualm import config
from dualm.cli import main
from dualm.errors import UserError
from dualm.model import size
from dualm.sweep import folder
from dualm.sweep.grid import Point, load
from dualm.training.cost import cost
from tests.conftest import Tiny
from tests.sweep.test_grid import loaded, write
from tests.test_cli import one_line

SECTION = """
axes: {objective.alpha: [0, 1]}
recipe: {train: {steps: null}}
isoflop:
  budgets: [4e9, 1.6e10]
  sizes: [{model.hidden: 16, model.ffn: 24}, {model.hidden: 32, model.ffn: 48}]
"""
LADDER = Path(__file__).parents[2] / "sweeps/points/smdm-ladder.yaml"


def budget_of(point: Point) -> float:
    return float(point.name.split("-")[0].removeprefix("C"))


def test_every_size_spends_every_budget_to_within_a_step(tiny: Tiny) -> None:
    sweep = loaded(tiny, SECTION)
    assert len(sweep.points) == 8
    assert {budget_of(point) for point in sweep.points} == {4e9, 1.6e10}
    for point in sweep.points:
        spent, recipe = cost(point.recipe, 1), point.recipe
        step = recipe.train.global_batch * recipe.model.context * size.flops_per_token(recipe.model, 32)
        assert budget_of(point) - step < spent.flops <= budget_of(point)
        assert spent.trained_tokens == recipe.data.tokens
        assert point.values["data.tokens"] == recipe.data.tokens


def test_names_show_budget_size_and_the_other_axes(tiny: Tiny) -> None:
    sweep = loaded(tiny, SECTION)
    sizes = {size.parameter_count(point.recipe.model, embedding=False) for point in sweep.points}
    assert sizes == {8784, 26272}  # 2 (4 h^2 + 3 h f + 2 h) + h + 272 h
    assert {point.name for point in sweep.points} == {
        f"C{budget}-N{label}-a{alpha}-s0"
        for budget in ("4e9", "1.6e10")
        for label in ("8.78k", "26.3k")
        for alpha in (0, 1)
    }
    assert sweep.axes == ("data.tokens", "model.hidden", "model.ffn", "objective.alpha")


def test_the_batch_depends_on_the_budget(tiny: Tiny) -> None:
    sweep = loaded(tiny, SECTION + "  batch: {1e9: 4, 1e10: 8}")
    assert {(budget_of(point), point.values["train.global_batch"]) for point in sweep.points} == {(4e9, 4), (1.6e10, 8)}


def test_sizes_with_too_few_or_too_many_tokens_are_left_out(tiny: Tiny) -> None:
    def ratio(point: Point) -> float:
        tokens = budget_of(point) / size.flops_per_token(point.recipe.model, 32)
        return tokens / size.parameter_count(point.recipe.model, embedding=False)

    ratios = {point.name: ratio(point) for point in loaded(tiny, SECTION).points}
    kept = loaded(tiny, SECTION + "  tokens_per_parameter: [3, 12]")
    assert {point.name for point in kept.points} == {name for name, each in ratios.items() if 3 <= each <= 12}
    assert 0 < len(kept.points) < len(ratios)


def test_sizes_may_be_in_a_file(tiny: Tiny) -> None:
    (tiny.folder / "sizes.yaml").write_text("- {model.hidden: [16, 32], model.ffn: 24}\n")
    sweep = loaded(tiny, "recipe: {train: {steps: null}}\nisoflop: {budgets: [4e9], sizes: sizes.yaml}")
    assert [point.values["model.hidden"] for point in sweep.points] == [16, 32]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("isoflop: {sizes: [{model.hidden: 16}]}", "isoflop.budgets: got [], expected FLOPs above 0"),
        (
            "isoflop: {budgets: [-1], sizes: [{model.hidden: 16}]}",
            "isoflop.budgets: got [-1.0], expected FLOPs above 0",
        ),
        ("isoflop: {budgets: [4e9], sizes: 16}", "isoflop.sizes: expected a list of mappings"),
        ("isoflop: {budgets: [4e9], sizes: nowhere.yaml}", "nowhere.yaml: no such file"),
        ("isoflop: {budgets: [4e9], sizes: [{model.hiden: 16}]}", "'model.hiden' is not a recipe key, did you mean"),
        ("isoflop: {budgets: [1e3], sizes: [{model.hidden: 16}]}", "got 1000 FLOPs, expected at least one step's"),
        (SECTION.replace("null", "6"), "train.steps: got 6, expected null: isoflop.budgets says how long"),
        (SECTION + "  batch: {1e10: 8}", "isoflop.batch: got sizes from 1e+10 FLOPs on, expected one for 4e+09"),
        (
            SECTION + "  tokens_per_parameter: [9, 3]",
            "isoflop.tokens_per_parameter: got [9.0, 3.0], expected the smallest and the largest",
        ),
        (SECTION + "  tokens_per_parameter: [8e5, 9e5]", "points: got none, expected at least one point"),
        (SECTION + "  size: 3", "isoflop: unknown key 'size', expected one of budgets, sizes, batch"),
        (
            SECTION.replace("objective.alpha: [", "model.hidden: [16, "),
            "axes: got model.hidden, expected it only under isoflop",
        ),
        (
            SECTION.replace("{model.hidden: 16, model.ffn: 24}, ", "{model.hidden: 32, model.ffn: 48}, "),
            "more than once",
        ),
    ],
)
def test_mistakes_are_one_line(tiny: Tiny, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write(tiny, text)), "--dry-run"]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_keys_that_a_budget_sets_cannot_be_overridden(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write(tiny, SECTION)), "--dry-run", "data.tokens=512"]) == 2
    assert "data.tokens: got a value on the command line, expected none" in one_line(capsys.readouterr().err)


def test_the_plan_shows_the_points(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write(tiny, SECTION)), "--dry-run", "--only", "C4e9-*"]) == 0
    printed = capsys.readouterr().out
    assert "4 runs" in printed
    assert "1.6e+10" in printed  # four runs of 4e9


def test_a_sweep_continues_in_its_folder_and_accepts_more_budgets(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.folder)
    sweep = loaded(tiny, SECTION)
    for each in (sweep, loaded(tiny, SECTION), loaded(tiny, SECTION.replace("1.6e10]", "1.6e10, 6.4e10]"))):
        os.close(folder.enter(each))
    for point in sweep.points:
        assert config.load(sweep.dir / "recipes" / f"{point.name}.yaml") == point.recipe
    with pytest.raises(UserError, match=r"another sweep \(point C4e9-.* is in it, not in this one\)"):
        folder.enter(loaded(tiny, SECTION.replace("4e9", "3e9")))


def test_the_ladder_has_the_parameters_that_its_comments_state(tmp_path: Path) -> None:
    published = [
        int(line.split(": ")[-1].replace(",", "")) for line in LADDER.read_text().splitlines() if line.startswith("- ")
    ]
    (tmp_path / "sweep.yaml").write_text(
        f"dir: runs/ladder\nbase: {LADDER.parents[2]}/recipes/smdm-1b.yaml\npoints: {LADDER}"
    )
    models = {_without_head(point) for point in load(tmp_path / "sweep.yaml").points}
    assert models == set(published)
    assert len(published) == 30
    assert (min(published), max(published)) == (6_294_784, 2_121_393_280)


def _without_head(point: Point) -> int:
    model = point.recipe.model
    return size.parameter_count(model, embedding=False) - model.vocab * model.hidden


def test_recipes_of_the_ladder_share_what_makes_them_smdm() -> None:
    recipes = LADDER.parents[2] / "recipes"
    large, small = (config.load(recipes / f"smdm-{name}.yaml") for name in ("1b", "novels"))
    assert large.objective == replace(small.objective, mask_first=True, mean_over="window")
    assert (large.schedule, large.optimizer.betas) == (small.schedule, small.optimizer.betas)
    assert not large.objective.shifted
