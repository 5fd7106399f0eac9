"""`tasks:` of a sweep: finished runs are scored, once, and their scores stand in the table."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dualm.cli import main
from dualm.sweep import scores
from dualm.sweep.sections import Tasks
from tests.evaluation.tiny import PAIRS, write_data, write_lines
from tests.sweep.conftest import TinySweep
from tests.test_cli import one_line

TASKS = "tasks: {names: [blimp], modes: [ar, pll], data: pairs, limit: 2}\n"
BLIMP = Tasks(["blimp"], ["ar", "pll"], "pairs", limit=2)


@pytest.fixture
def scored(finished: TinySweep, monkeypatch: pytest.MonkeyPatch) -> TinySweep:
    """The finished sweep, its file now asking for scores."""
    monkeypatch.chdir(finished.tiny.folder)
    for name, pairs in PAIRS.items():
        records = [{"sentence_good": good, "sentence_bad": bad} for good, bad in pairs]
        write_lines(Path("pairs/blimp") / f"{name}.jsonl", records)
    path = Path("sweep.yaml")
    path.write_text(path.read_text() + TASKS)
    return finished


def write_result(run: Path, name: str, step: int, settings: dict[str, Any] | None = None, **result: Any) -> Path:
    plain = {"task": "blimp", "mode": "ar", "score": 0.5, "standard_error": 0.1, "documents": 4} | result
    path = run / "evaluation" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": f"{run}/checkpoints/step-{step:06d}", "settings": settings or {}, "results": [plain]}
    path.write_text(json.dumps(content))
    return path


def test_finished_runs_are_scored_once(scored: TinySweep) -> None:
    pytest.importorskip("lm_eval")
    run = scored.dir / "runs/R2-a0-s0"
    done = scored.run("--only", "R2-a0-s0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert scores.are_there(BLIMP, run)
    rows = list(csv.DictReader((scored.dir / "results.csv").open()))
    (row,) = [row for row in rows if row["task/blimp/ar"]]
    assert (row["run"], row["step"]) == ("R2-a0-s0", "30")
    assert 0 <= float(row["task/blimp/pll"]) <= 1
    assert float(row["task/blimp/ar_se"]) >= 0
    log = (scored.dir / "logs/R2-a0-s0.log").read_text()
    assert "resuming" not in log
    assert scored.run("--only", "R2-a0-s0").returncode == 0
    assert (scored.dir / "logs/R2-a0-s0.log").read_text() == log


NEW = [{"mode": mode, "draws": 32, "seed": 0, "guidance": 0.0, "mask_padding": 0} for mode in BLIMP.modes]
OLD = {"modes": BLIMP.modes, "draws": 32, "seed": 0, "guidance": 0.0, "tasks": ["blimp"], "out": None}  # of version 0.2


@pytest.mark.parametrize("settings", [{"scorings": NEW}, OLD], ids=["new", "old"])
def test_scores_are_found_by_the_settings_in_their_files(scored: TinySweep, settings: dict[str, Any]) -> None:
    run, settings = scored.dir / "runs/R2-a0-s0", {**settings, "limit": 2, "precision": "fp32"}
    assert scores.are_there(None, run)
    assert not scores.are_there(BLIMP, run)
    write_result(run, "whatever", 30, settings, mode="ar")
    assert not scores.are_there(BLIMP, run)  # it was stopped after the first mode
    write_result(run, "another", 30, settings, mode="pll")
    assert scores.are_there(BLIMP, run)
    assert not scores.are_there(Tasks(["blimp"], ["ar", "pll"], limit=3), run)
    assert not scores.are_there(Tasks(["blimp"], ["ar", "pll"], limit=2, draws=8), run)
    assert not scores.are_there(Tasks(["blimp", "piqa"], ["ar", "pll"], limit=2), run)
    assert scores.command(BLIMP, run)[-10:] == (
        ["--tasks", "blimp", "--modes", "ar,pll", "--draws", "32", "--data", "pairs", "--limit", "2"]
    )


@pytest.mark.parametrize("other", [{"guidance": 0.5}, {"seed": 1}, {"mask_padding": 32}, {"draws": 8}, {"limit": 3}])
def test_scores_of_other_settings_or_checkpoints_are_others(scored: TinySweep, other: dict[str, Any]) -> None:
    run, tasks = scored.dir / "runs/R2-a0-s0", Tasks(["blimp"], ["pll"], limit=2)
    settings = {**OLD, "limit": 2}
    write_result(run, "other", 30, settings | other, mode="pll")
    write_result(run, "earlier", 20, settings, mode="pll")
    assert not scores.are_there(tasks, run)
    write_result(run, "right", 30, settings, mode="pll")
    assert scores.are_there(tasks, run)


def test_of_several_scores_the_one_on_most_documents_counts(tmp_path: Path) -> None:
    write_result(tmp_path, "a", 30, score=0.75, documents=100)
    write_result(tmp_path, "b", 30)
    write_result(tmp_path, "c", 20, score=1.0, documents=1000)  # of an earlier checkpoint
    write_result(tmp_path, "d", 30, mode="mc", standard_error=None)
    expected = {"task/blimp/ar": 0.75, "task/blimp/ar_se": 0.1, "task/blimp/mc": 0.5, "task/blimp/mc_se": None}
    assert scores.columns(tmp_path, 30) == (expected, [])


def test_the_plain_reading_counts_before_a_guided_one(tmp_path: Path) -> None:
    scoring = {"mode": "mc", "draws": 8, "seed": 0, "guidance": 0.0, "mask_padding": 0}
    write_result(tmp_path, "a", 30, {"scorings": [scoring]}, mode="mc", score=0.5)
    write_result(tmp_path, "b", 30, {"scorings": [scoring | {"draws": 32}]}, mode="mc", score=0.6)
    write_result(tmp_path, "c", 30, {"scorings": [scoring | {"guidance": 0.5}]}, mode="mc", score=0.7, documents=100)
    write_result(tmp_path, "d", 30, {"scorings": [scoring]}, mode="mc", score=0.8)
    assert scores.columns(tmp_path, 30)[0]["task/blimp/mc"] == 0.6


def test_of_equal_scores_the_latest_counts(tmp_path: Path) -> None:
    for time, name in enumerate("cab"):
        os.utime(write_result(tmp_path, name, 30, OLD, score=time / 2), (time, time))
    assert scores.columns(tmp_path, 30)[0]["task/blimp/ar"] == 1.0


def test_a_torn_file_of_scores_is_left_out_and_said(scored: TinySweep, capsys: pytest.CaptureFixture[str]) -> None:
    run = scored.dir / "runs/R2-a0-s0"
    torn = write_result(run, "torn", 30)
    torn.write_text(torn.read_text()[:-5])
    write_result(run, "whole", 30, standard_error=None)
    assert main(["results", str(scored.dir)]) == 0
    assert capsys.readouterr().err == "R2-a0-s0: evaluation/torn.json left out, cut off in the middle\n"
    rows = list(csv.DictReader((scored.dir / "results.csv").open()))
    assert [row["task/blimp/ar"] for row in rows if row["run"] == "R2-a0-s0"] == ["", "", "0.5"]


NORMAL = {"chance": 0.5, "score": 0.75, "standard_error": 0.05}


def test_the_average_is_over_the_benchmarks_of_the_section(tmp_path: Path) -> None:
    write_result(tmp_path, "a", 30, **NORMAL)
    write_result(tmp_path, "b", 30, task="piqa", **NORMAL | {"chance": 0.25, "score": 0.25})
    write_result(tmp_path, "c", 30, task="piqa", mode="pll", **NORMAL)
    write_result(tmp_path, "d", 30, task="other", **NORMAL | {"score": 1.0})
    both = scores.columns(tmp_path, 30, ["blimp", "piqa"])[0]
    assert both["task/average/ar"] == pytest.approx((50 + 0) / 2)
    assert both["task/average/ar_se"] == pytest.approx((10**2 + (100 * 0.05 / 0.75) ** 2) ** 0.5 / 2)
    assert both["task/piqa/ar"] == 0.25
    assert "task/average/pll" not in both  # blimp was not read so
    for others in ([], ["blimp"], ["blimp", "piqa", "mmlu"]):
        assert not any("average" in name for name in scores.columns(tmp_path, 30, others)[0])


def test_the_table_has_the_average_of_a_sweep(scored: TinySweep, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder remembers the benchmarks of the section, so `dualm results` alone makes the column."""
    for task in ("blimp", "piqa"):
        write_result(scored.dir / "runs/R2-a0-s0", task, 30, task=task, **NORMAL)
    definition = scored.dir / "sweep.yaml"
    definition.write_text(definition.read_text().replace("tasks: []", "tasks: [blimp, piqa]"))
    assert main(["results", str(scored.dir)]) == 0
    rows = list(csv.DictReader((scored.dir / "results.csv").open()))
    assert [row["task/average/ar"] for row in rows if row["run"] == "R2-a0-s0"] == ["", "", "50.0"]
    assert {row["task/average/ar_se"] for row in rows} >= {"", repr(200**0.5 / 2)}


def test_a_suite_without_its_files_is_an_offer(scored: TinySweep) -> None:
    """Nothing is scored, one line says so, and the folder given later has the finished runs scored."""
    path = Path("sweep.yaml")
    path.write_text(path.read_text().replace(TASKS, "tasks: {suite: dual}\n"))
    done = scored.run("--only", "R2-a0-s0")
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("tasks:")]
    assert "suite 'dual' is not scored, for want of its files: give tasks.data=DIR" in said
    assert not (scored.dir / "runs/R2-a0-s0/evaluation").exists()
    tasks = Tasks(suite="dual", data="files", limit=2)
    assert scores.are_there(Tasks(suite="dual"), scored.dir / "runs/R2-a0-s0")
    assert not scores.are_there(tasks, scored.dir / "runs/R2-a0-s0")
    assert scores.command(tasks, Path("run"))[-6:] == ["--suite", "dual", "--data", "files", "--limit", "2"]


def test_the_command_line_gives_the_section(scored: TinySweep) -> None:
    from dualm.sweep.grid import load

    sweep = load(Path("sweep.yaml"), ["tasks.data=1", "tasks.limit=5"])
    assert sweep.tasks == Tasks(["blimp"], ["ar", "pll"], "1", limit=5)
    path = Path("sweep.yaml")
    path.write_text(path.read_text().replace(TASKS, ""))
    assert load(path, ["tasks.suite=dual", "tasks.data=here"]).tasks == Tasks(suite="dual", data="here")
    assert load(path).tasks is None


def test_a_suite_scores_a_run_whole(scored: TinySweep) -> None:
    pytest.importorskip("lm_eval")
    write_data(Path("files"))
    path = Path("sweep.yaml")
    path.write_text(path.read_text().replace(TASKS, "tasks: {suite: dual, limit: 1}\n"))
    done = scored.run("--only", "R2-a0-s0", "tasks.data=files")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(csv.DictReader((scored.dir / "results.csv").open()))
    (row,) = [row for row in rows if row["task/average/pll_mixed"]]
    chances = {"blimp": 0.5, "hellaswag": 0.25}
    names = [name[5:-3] for name in row if name.startswith("task/") and name.endswith("/ar") and "average" not in name]
    assert len(names) == 9
    each = [
        100 * (float(row[f"task/{name}/ar"]) - chances.get(name, 1 / 3)) / (1 - chances.get(name, 1 / 3))
        for name in names
    ]
    assert float(row["task/average/ar"]) == pytest.approx(sum(each) / 9)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{names: []}", "sweep.yaml: tasks.names: got none, expected names such as blimp or lambada"),
        ("{names: [blimp], modes: [arr]}", "sweep.yaml: tasks: mode: got 'arr'"),
        ("{names: [blimp], limit: 0}", "sweep.yaml: tasks: --limit: got 0, expected at least 1"),
        ("{names: [blimp], draws: many}", "sweep.yaml: tasks.draws"),
        ("{tasks: [blimp]}", "sweep.yaml: tasks: unknown key 'tasks', expected one of names, modes, data"),
        ("blimp", "sweep.yaml: tasks: got 'blimp', expected a mapping"),
        ("{names: [blimp], data: nowhere}", "tasks: --data: nowhere: no such folder"),
        ("{names: [blimp]}", "tasks: --data: not given, expected the folder with the files of blimp"),
        ("{suite: dual, data: nowhere}", "tasks: --data: nowhere: no such folder"),
        ("{suite: dual, data: pairs}", "nothing of arc_easy (arc_easy*.jsonl or arc-easy*.jsonl), arc_challenge"),
        ("{suite: dual, names: [blimp]}", "tasks.names: got ['blimp'] beside tasks.suite, expected none"),
        ("{suite: dual, draws: 8}", "tasks.draws: got 8 beside tasks.suite, expected none"),
        ("{suite: mdlm-zeroshot}", "--suite: got 'mdlm-zeroshot', which is perplexities, expected dual or smdm"),
        ("{suite: dal}", "--suite: got 'dal', expected dual or smdm"),
    ],
)
def test_mistakes_are_one_line(
    scored: TinySweep, section: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("sweep.yaml")
    path.write_text(path.read_text().replace(TASKS, f"tasks: {section}\n"))
    assert main(["sweep", "sweep.yaml"]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_without_lm_eval_it_is_said_before_anything_is_trained(
    scored: TinySweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(scores, "find_spec", lambda name: None if name == "lm_eval" else real(name))
    assert main(["sweep", "sweep.yaml"]) == 2
    assert "lm_eval is not installed, expected after: pip install -r" in one_line(capsys.readouterr().err)
