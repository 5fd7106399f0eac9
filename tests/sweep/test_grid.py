"""A sweep file: its points, their names, and one line for every mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualm.cli import main
from dualm.sweep.grid import Sweep, load, name_of
from tests.conftest import Tiny
from tests.test_cli import one_line

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


def write(tiny: Tiny, text: str) -> Path:
    path = tiny.folder / "sweep.yaml"
    path.write_text(f"base: {tiny.recipe.name}\ndir: runs/small\n{text}")
    return path


def loaded(tiny: Tiny, text: str, *overrides: str) -> Sweep:
    return load(write(tiny, text), overrides)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(load(path).points)} runs" in printed
    header = path.read_text().split("\n\n")[0]
    assert all(f"#   {word} " in header for word in ("command", "cost", "expected"))


@pytest.mark.parametrize("path", [path for path in SWEEPS if "repetition" in path.stem], ids=lambda path: path.stem)
def test_sweeps_over_repetition_have_fifty_points_with_both_ends_at_every_R(path: Path) -> None:
    ratios: dict[int, set[float]] = {}
    for point in load(path).points:
        ratios.setdefault(point.values["data.repetitions"], set()).add(point.values["objective.alpha"])
    assert sum(map(len, ratios.values())) == 50
    assert all({0, 1} <= alphas for alphas in ratios.values())
    if path.stem == "repetition-50-published":
        listed = {0, 1 / 256, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 3 / 4, 15 / 16, 63 / 64, 255 / 256, 1}  # by the model card
        assert set(ratios) == {2**n for n in range(9)}
        assert set.union(*ratios.values()) - listed == {1 / 8}
        assert (63 / 64 in ratios[1], 3 / 4 in ratios[32], 1 / 8 in ratios[128]) == (True, True, True)
    else:
        assert set(ratios) == {2**n for n in range(8)}
        assert all({1 / 4, 3 / 4} <= alphas for alphas in ratios.values())  # a mixture against each end, at R = 1 too


def test_axes_are_crossed_and_points_added(tiny: Tiny) -> None:
    sweep = loaded(
        tiny,
        "axes: {data.repetitions: [1, 2], objective.alpha: [0, 63/64]}\n"
        "points: [{data.repetitions: 3, objective.alpha: [1/2, 1]}]\n"
        "seeds: [0, 7]",
    )
    names = {point.name for point in sweep.points}
    assert len(sweep.points) == len(names) == 12
    assert {"R1-a0-s0", "R2-a63_64-s7", "R3-a1_2-s0", "R3-a1-s7"} <= names
    assert sweep.axes == ("data.repetitions", "objective.alpha")
    assert [point.values["run.seed"] for point in sweep.points] == [0] * 6 + [7] * 6  # one seed after the other


def test_points_have_complete_recipes(tiny: Tiny) -> None:
    sweep = loaded(tiny, "recipe: {train: {steps: 8}}\naxes: {objective.alpha: [63/64]}", "optimizer.lr=0.5")
    (point,) = sweep.points
    assert point.name == "a63_64-s0"
    assert point.recipe.objective.alpha == 63 / 64
    assert point.recipe.train.steps == 8  # the sweep's, over the base's
    assert point.recipe.optimizer.lr == 0.5  # the command line's
    assert point.recipe.model.hidden == 32  # the base's
    assert point.recipe.run.dir == "runs/small/runs/a63_64-s0"
    assert loaded(tiny, "axes: {objective.alpha: [0]}", "run.dir=there").dir == Path("there")


def test_an_axis_without_a_value_takes_that_of_the_recipe(tiny: Tiny) -> None:
    sweep = loaded(tiny, "points: [{data.repetitions: 2}, {objective.alpha: 1}]")
    assert {point.name for point in sweep.points} == {"R2-a1_2-s0", "R1-a1-s0"}


def test_points_may_be_in_a_separate_file(tiny: Tiny) -> None:
    (tiny.folder / "points.yaml").write_text("- {data.repetitions: [1, 2]}\n")
    assert {point.name for point in loaded(tiny, "points: points.yaml").points} == {"R1-s0", "R2-s0"}


def test_names_are_readable_and_valid_as_file_names() -> None:
    values = {"data.repetitions": 32, "objective.alpha": 255 / 256, "optimizer.name": "muon", "run.seed": 3}
    assert name_of(values) == "R32-a255_256-optimizer.name=muon-s3"
    assert name_of({"objective.alpha": 0.3}) == "a3_10"
    assert name_of({"objective.alpha": 0.12345678}) == "a0.12345678"
    assert name_of({"objective.alpha": [[0, 1], [1, 0.5]]}) == "a__0__1____1__0.5__"


def test_any_first_part_of_the_order_covers_the_grid(tiny: Tiny) -> None:
    sweep = loaded(tiny, "axes: {data.repetitions: [1, 2, 3], objective.alpha: [0, 1/4, 1]}")
    first = [(point.values["data.repetitions"], point.values["objective.alpha"]) for point in sweep.points[:4]]
    assert sorted(first) == [(1, 0), (1, 1), (3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "axes: {objective.alpa: [0, 1]}",
            "axes: 'objective.alpa' is not a recipe key, did you mean 'objective.alpha'?",
        ),
        ("axes: {colour: [red]}", "axes: 'colour' is not a recipe key"),
        ("axes: {run.seed: [0, 1]}", "got run.seed, expected under 'seeds:' instead"),
        ("axes: {run.dir: [a]}", "got run.dir, expected under 'dir:' instead"),
        ("axes: {data.repetitions: []}", "expected at least one point"),
        ("seeds: []", "expected at least one point"),
        ("axes: {data.repetitions: [2, 2]}", "points: R2-s0 appears more than once"),
        ("points: [{objective.alpha: 1/2}, {objective.alpha: 0.5}]", "points: a1_2-s0 appears more than once"),
        ("axes: {objective.alpha: [1/0]}", "objective.alpha: got '1/0', expected a number or a fraction"),
        ("axes: {objective.alpha: [1.5]}", "point a3_2-s0: objective.alpha: got 1.5, expected a number in [0, 1]"),
        ("axes: {data.repetitions: [many]}", "point Rmany-s0: data.repetitions"),
        ("axes: {data.repetitions: [9999]}", "point R9999-s0: data.repetitions: got 9999, expected at most"),
        ("seeds: [one]", "point sone: run.seed"),
        ("recipe: {trian: {steps: 3}}", "unknown section 'trian'"),
        ("recipe: {train: 3}", "recipe: got 'train: 3', expected a mapping of sections"),
        ("sedes: [0]", "unknown section 'sedes', expected one of base, recipe, dir"),
        ("points: nowhere.yaml", "nowhere.yaml: no such file"),
        ("points: [3]", "points: expected a list of mappings"),
        ("axes: [3]", "axes: got [3], expected a mapping"),
        ("parallel: 0", "parallel: got 0, expected a number of runs above 0"),
        ("dir: [3", "not readable as YAML"),
        ("dir: 3", "dir: got 3, expected the sweep's folder"),
        ("base: 3", "base: got 3, expected a recipe"),
        ("base: nowhere.yaml", "nowhere.yaml: no such recipe"),
    ],
)
def test_mistakes_are_one_line(tiny: Tiny, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tiny, text)
    key = text.partition(":")[0]
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, text]))
    assert main(["sweep", str(path), "--dry-run"]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert {file.name for file in tiny.folder.iterdir()} == {"tiny.yaml", "sweep.yaml"}


def test_mistakes_on_the_command_line(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tiny, "axes: {data.repetitions: [1, 2]}"))
    for words, message in {
        ("nowhere.yaml",): "nowhere.yaml: no such file",
        (path, "--only", "R3*"): "--only: got 'R3*', expected a pattern of names such as R1-s0, R2-s0",
        (path, "--parallel", "0"): "--parallel: got 0, expected at least 1",
        (path, "data.repetitions=4"): "data.repetitions: got a value on the command line",
        (path, "train.stpes=4"): "train.steps",
    }.items():
        assert main(["sweep", *words, "--dry-run"]) == 2
        assert message in one_line(capsys.readouterr().err)
