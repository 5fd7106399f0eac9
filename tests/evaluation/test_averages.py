"""Averages over benchmarks and paired differences, against the documents they come from."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import dualm
from dualm.cli import main
from dualm.evaluation.averages import Estimate, mean_of, on_one_scale, paired_difference
from tests.evaluation.tiny import PAIRS, QUESTIONS, save_model, write_data, written

CHANCES, RATES, SIZES = (0.25, 0.5, 0.2), (0.4, 0.8, 0.3), (200, 400, 100)


def test_the_standard_error_is_the_spread_of_the_average_over_draws_of_documents() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        tasks = []
        for chance, rate, size in zip(CHANCES, RATES, SIZES, strict=True):
            right = rng.random(size) < rate
            tasks.append(on_one_scale(right.mean(), right.std(ddof=1) / math.sqrt(size), chance))
        drawn.append(mean_of(tasks))
    means = np.array([one.mean for one in drawn])
    truth = np.mean([100 * (rate - chance) / (1 - chance) for rate, chance in zip(RATES, CHANCES, strict=True)])
    assert means.mean() == pytest.approx(truth, abs=4 * means.std() / math.sqrt(len(means)))
    assert np.mean([one.standard_error for one in drawn]) == pytest.approx(means.std(), rel=0.05)


def test_chance_is_0_and_perfection_is_100() -> None:
    chance, perfect = ([on_one_scale(score or c, 0.0, c) for c in CHANCES] for score in (0.0, 1.0))
    assert mean_of(chance) == Estimate(0.0, 0.0)
    assert mean_of(perfect) == Estimate(100.0, 0.0)


def test_a_difference_of_equal_readings_has_no_spread() -> None:
    right = (1.0, 0.0, 1.0)
    assert paired_difference(right, right, 0.25) == Estimate(0.0, 0.0)
    assert paired_difference((1, 1, 1), (1, 0, 1), 0.5).mean == pytest.approx(200 / 3)
    assert math.isnan(paired_difference((1,), (0,), 0.5).standard_error)


# ---------------------------------------------------------------- of `dualm evaluate`


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A model, and the result file of three benchmarks read in four modes."""
    pytest.importorskip("lm_eval")
    folder, data = save_model(tmp_path_factory.mktemp("model")), write_data(tmp_path_factory.mktemp("data"))
    words = [
        "evaluate",
        str(folder),
        "--tasks",
        "blimp,arc_easy,piqa",
        "--data",
        str(data),
        "--out",
        str(folder / "out"),
    ]
    assert main([*words, "--modes", "ar,prefix,pll,pll_mixed"]) == 0
    return dualm.load(folder), written(folder / "out")


def right_of_question(model: Any, mode: str, by_length: bool) -> np.ndarray:
    right = []
    for question in QUESTIONS:
        pairs = [(f"{question['query'].strip()}\nAnswer:", f" {choice}") for choice in question["choices"]]
        scores = np.array([score.log_likelihood for score in model.score(pairs, mode)])
        lengths = np.array([len(choice) for choice in question["choices"]])
        right.append((scores / lengths if by_length else scores).argmax() == question["gold"])
    return np.array(right, dtype=float)


def right_of_pairs(model: Any, mode: str) -> list[np.ndarray]:
    def right(good: str, bad: str) -> bool:
        better, worse = model.score([("", good), ("", bad)], mode)
        return better.log_likelihood > worse.log_likelihood

    return [np.array([right(*pair) for pair in pairs], dtype=float) for pairs in PAIRS.values()]


def test_averages_in_the_result_file(found: tuple[Any, dict[str, Any]]) -> None:
    model, content = found
    chance = np.mean([1 / len(question["choices"]) for question in QUESTIONS])
    assert [one["mode"] for one in content["averages"]] == ["ar", "prefix", "pll", "pll_mixed"]
    for one in content["averages"]:
        blimp = right_of_pairs(model, one["mode"])
        questions = [right_of_question(model, one["mode"], by_length) for by_length in (False, True)]
        normalised = [200 * (np.mean([part.mean() for part in blimp]) - 0.5)]
        normalised += [100 * (part.mean() - chance) / (1 - chance) for part in questions]
        spreads = [200 * part.std(ddof=1) / math.sqrt(len(part)) / len(blimp) for part in blimp]
        spreads += [100 * part.std(ddof=1) / math.sqrt(len(part)) / (1 - chance) for part in questions]
        assert one["mean"] == pytest.approx(np.mean(normalised))
        assert one["standard_error"] == pytest.approx(math.hypot(*spreads) / 3)
        assert one["tasks"] == ["blimp", "arc_easy", "piqa"]


def test_differences_are_of_the_same_documents(found: tuple[Any, dict[str, Any]]) -> None:
    model, content = found
    rows = {(row["task"], tuple(row["modes"])): row for row in content["differences"]}
    tasks = ("blimp", "arc_easy", "piqa", "average")
    assert set(rows) == {(task, pair) for task in tasks for pair in (("prefix", "ar"), ("pll_mixed", "pll"))}
    chance = np.mean([1 / len(question["choices"]) for question in QUESTIONS])
    one, other = (right_of_question(model, mode, True) for mode in ("pll_mixed", "pll"))
    each = 100 * (one - other) / (1 - chance)
    row = rows["piqa", ("pll_mixed", "pll")]
    assert row["mean"] == pytest.approx(each.mean())
    assert row["standard_error"] == pytest.approx(each.std(ddof=1) / 2)
    averages = {one["mode"]: one["mean"] for one in content["averages"]}
    for pair in (("prefix", "ar"), ("pll_mixed", "pll")):
        assert rows["average", pair]["mean"] == pytest.approx(averages[pair[0]] - averages[pair[1]])


def test_an_average_is_of_all_benchmarks_or_none(found: tuple[Any, dict[str, Any]]) -> None:
    """Interrupted after the second mode of the second benchmark, no mode has been read on all of them."""
    from dualm.evaluation.averages import summary
    from dualm.evaluation.benchmarks import BenchmarkResult, Benchmarks, each_read
    from dualm.likelihood.modes import Scoring

    ways = (Scoring("ar"), Scoring("pll"))
    what = Benchmarks(each_read(("blimp", "piqa"), ways))
    results = [BenchmarkResult(task, way, "acc", 0.75, 0.1, 0.5, 4) for task in what.names for way in ways]
    assert summary(results[:2], what)["averages"] == []
    assert [one["mode"] for one in summary(results[:3], what)["averages"]] == ["ar"]
    assert json.loads(json.dumps(summary(results, what)))["averages"][1]["mean"] == 50
