"""Recipes: layers, overrides, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualm import config
from dualm.errors import UserError

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write(tmp_path, "train: {steps: 10}\n")


def test_layers_win_in_order(tmp_path: Path) -> None:
    write(tmp_path, "model: {layers: 3, hidden: 64, heads: 4}\ntrain: {steps: 5}", "base.yaml")
    path = write(tmp_path, "base: base.yaml\nmodel: {layers: 4}")
    loaded = config.load(path, ["model.heads=2"])
    assert (loaded.model.layers, loaded.model.hidden, loaded.model.heads) == (4, 64, 2)
    assert loaded.model.ffn == config.ModelConfig().ffn


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 99), st.floats(0, 1), st.booleans(), st.sampled_from(["fp32", "bf16"]))
def test_a_dumped_recipe_loads_to_itself(
    tmp_path_factory, steps: int, alpha: float, shifted: bool, precision: str
) -> None:
    folder = tmp_path_factory.mktemp("dump")
    overrides = [f"objective.alpha={alpha!r}", f"objective.shifted={shifted}", f"train.precision={precision}"]
    loaded = config.load(write(folder, f"train: {{steps: {steps}}}"), overrides)
    assert config.load(write(folder, config.dump(loaded), "again.yaml")) == loaded


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.layers=2", "unknown section 'modle', expected one of run, data, model"),
        ("model.layres=2", "unknown key 'model.layres', did you mean 'model.layers'?"),
        ("model.layers=two", "model.layers: Value 'two'"),
        ("model=2", "unknown section 'model'"),
        ("steps", "steps: expected key=value"),
        ("objective.alpha=1.5", "objective.alpha: got 1.5, expected a number in [0, 1]"),
        ("objective.alpha=always", "objective.alpha: got 'always'"),
        ("objective.alpha=[[0.5,1],[0.2,0]]", "objective.alpha: got [[0.5, 1], [0.2, 0]]"),
        (
            "objective.time_sigma=[5,2]",
            "objective.time_sigma: got [5.0, 2.0], expected the smallest noise, then the larg",
        ),
        (
            "objective.time_steps=10",
            "objective.mask_count: got 'exact', expected bernoulli with objective.time_steps = 10",
        ),
        (
            "objective.time_mean=1.5",
            "objective.time_mean: got 1.5, expected a number between objective.time_min = 0.001 and 1",
        ),
        (
            "objective.time_noise=[20,0.1]",
            "objective.time_noise: got [20.0, 0.1], expected the smallest noise, then the largest",
        ),
        ("objective.time_beta=[0,1]", "objective.time_beta: got [0.0, 1.0], expected two numbers above 0"),
        ("objective.prefix_fraction=-0.1", "objective.prefix_fraction: got -0.1, expected a number in [0, 1]"),
        ("train.zero_stage=4", "train.zero_stage: got 4, expected a number in [0, 3]"),
        ("train.micro_batch=5", "train.global_batch: got 32, expected a multiple of train.micro_batch = 5"),
        ("train.steps=null", "train.steps: got None, expected train.steps or data.tokens"),
        ("model.heads=5", "model.hidden: got 384, expected a multiple of 2 * model.heads = 10"),
        ("model.head_dim=7", "model.head_dim: got 7, expected an even number"),
        ("data.repetitions=0", "data.repetitions: got 0, expected a number above 0"),
    ],
)
def test_mistakes_are_named(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(recipe, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_older_name_of_a_key_is_understood_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "train: {steps: 10}\nschedule: {warmup_least: 7}")
    for _ in range(2):
        assert config.load(path).schedule.warmup_min == 7
    assert capsys.readouterr().err == f"{path}: schedule.warmup_least is called schedule.warmup_min now\n"


def test_an_older_name_of_a_choice_is_understood_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older run, its recipe.yaml resolved, goes on as what it was: MD4's cosine."""
    path = write(tmp_path, "train: {steps: 10}\nobjective: {time: cosine}")
    for _ in range(2):
        assert config.load(path).objective.time == "cosine_md4"
    assert capsys.readouterr().err == f"{path}: objective.time: cosine is called cosine_md4 now\n"
    assert config.load(path, ["objective.time=cosine_mdlm"]).objective.time == "cosine_mdlm"


def test_a_wrong_type_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, "model: {layers: two}\ntrain: {steps: 10}", "base.yaml")
    with pytest.raises(UserError, match=r"base\.yaml: model\.layers: Value 'two'"):
        config.load(write(tmp_path, "base: base.yaml\nmodel: {heads: 3}"), ["model.ffn=8"])


def test_files_are_named(tmp_path: Path) -> None:
    cases = {
        "a: [": "not readable as YAML",
        "- 1": "a recipe is a mapping",
        "base: recipe.yaml": "base refers back to itself",
        "base: nowhere.yaml": "nowhere.yaml: no such recipe",
        "model: {layers: 2, depth: 3}": "unknown key 'model.depth'",
    }
    for text, message in cases.items():
        with pytest.raises(UserError, match=message):
            config.load(write(tmp_path, text))
    with pytest.raises(UserError, match="no such recipe"):
        config.load(tmp_path / "missing.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_command_cost_and_result(path: Path) -> None:
    config.load(path)
    header = path.read_text().split("\n\n")[0]
    for word in ("command", "cost", "expected"):
        assert f"#   {word}" in header
