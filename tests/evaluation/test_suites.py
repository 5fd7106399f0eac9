"""Suites: what a paper measured, from whatever part of its files is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dualm.cli import main
from dualm.evaluation.documents import BENCHMARKS
from dualm.evaluation.suites import SUITES
from tests.evaluation.tiny import save_model, write_data, write_lines, written
from tests.test_cli import one_line

NINE = ["arc_easy", "arc_challenge", "blimp", "commonsense_qa", "hellaswag", "mmlu", "openbookqa", "piqa", "social_iqa"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def run(folder: Path, suite: str, data: Path, out: Path, *more: str) -> dict[str, Any]:
    words = ["evaluate", str(folder), "--suite", suite, "--data", str(data), "--out", str(out), *more]
    assert main(words) == 0
    return written(out)


def test_the_nine_tasks_and_their_average(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    found = run(folder, "dual", data, tmp_path, "--limit", "2")
    said = capsys.readouterr()
    modes = ["ar", "prefix", "pll", "pll_mixed"]
    assert [(row["task"], row["mode"]) for row in found["results"]] == [(task, mode) for task in NINE for mode in modes]
    assert [(one["mode"], one["tasks"]) for one in found["averages"]] == [(mode, NINE) for mode in modes]
    assert said.err.strip() == ""
    assert "Average of the normalised scores" in said.out
    assert "prefix - ar" in said.out
    assert "pll_mixed - pll" in said.out


def test_what_is_missing_is_said_and_the_rest_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    data = write_data(tmp_path / "data")
    for name in ("mmlu", "siqa", "arc_easy", "arc_challenge", "commonsense_qa", "openbook_qa"):
        (data / "foundry" / f"{name}.jsonl").unlink()
    found = run(folder, "dual", data, tmp_path / "out", "--limit", "1")
    missing = capsys.readouterr().err.splitlines()
    assert f"{data}: nothing of mmlu, expected mmlu*.jsonl" in missing
    assert len(missing) == 6
    assert {tuple(one["tasks"]) for one in found["averages"]} == {("blimp", "hellaswag", "piqa")}


def test_each_task_of_smdm_has_its_own_reading(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    full = SUITES["smdm"]
    few = {
        task: tuple({**way, "draws": 4} if "draws" in way else way for way in ways) for task, ways in full.tasks.items()
    }
    monkeypatch.setitem(SUITES, "smdm", replace(full, tasks=few))
    found = run(folder, "smdm", data, tmp_path, "--limit", "1")
    asked = {row["task"]: (row["scoring"]["mode"], row["scoring"]["guidance"]) for row in found["results"]}
    assert asked == {
        "lambada_standard": ("exact", 1.1),
        "openbookqa": ("chain", 1.6),
        "boolq": ("chain", 1.6),
        "piqa": ("chain", 0.6),
        "arc_easy": ("mc", 0.6),
        "social_iqa": ("mc", 0.6),
        "race": ("mc", 0.7),
        "hellaswag": ("mc", 0.7),
    }
    assert found["averages"] == found["differences"] == []


def test_zero_shot_perplexities(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ptb.valid.txt").write_text("the cat 's mat\nit sat\n")
    write_lines(tmp_path / "arxiv" / "val.jsonl", [{"article": "we prove it ."}])
    found = run(folder, "mdlm-zeroshot", tmp_path, tmp_path / "out")
    assert [(row["file"], row["mode"]) for row in found["results"]] == [
        (name, mode) for name in ("ptb", "arxiv") for mode in ("ar", "mc")
    ]
    assert found["settings"]["length"] == 1024
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 5
    assert "nothing of lm1b, expected news.en.heldout* or lm1b*.jsonl or lm1b*.txt" in said.err


def test_every_reading_of_every_suite_is_valid() -> None:
    for suite in SUITES.values():
        for name, scorings in suite.readings(list(suite.tasks)):
            assert scorings
            assert suite.expected(name)
    assert len(SUITES["dual"].tasks) == 9
    assert set(SUITES["dual"].tasks) | set(SUITES["smdm"].tasks) <= set(BENCHMARKS)


def test_the_list_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--list-suites"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said and all(task in said for task in suite.tasks) for name, suite in SUITES.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--suite dal --data {data}", "--suite: got 'dal', expected dual or smdm or mdlm-zeroshot"),
        ("--suite dual", "--data: not given, expected the folder with the files of suite 'dual'"),
        (
            "--suite dual --data {empty}",
            "has nothing of suite 'dual', expected files of arc_easy, arc_challenge, blimp",
        ),
        ("--suite dual --data {data} --modes ar", "--modes: got ('ar',) with --suite, expected none"),
        ("--suite dual --data {data} --guidance 1", "--guidance: got 1.0 with --suite, expected none"),
        ("--suite dual --data {data} --tasks piqa", "got --tasks and --suite, expected one of"),
    ],
)
def test_mistakes_are_one_line(
    words: str, message: str, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(folder), *words.format(data=data, empty=tmp_path).split()]) == 2
    assert message in one_line(capsys.readouterr().err)
