"""`dualm sweep` as a user runs it: to its end, killed at any time, with a failing run, in a folder already in use."""

from __future__ import annotations

import csv
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dualm import config
from dualm.cli import main
from dualm.model.size import flops_per_token
from dualm.sweep.folder import Progress
from dualm.sweep.grid import load
from dualm.sweep.local import Run, environment
from dualm.sweep.screen import eta
from tests.forked import Forked
from tests.sweep.conftest import NAMES, TinySweep
from tests.test_cli import one_line

Done = subprocess.CompletedProcess[str]


def test_a_sweep_runs_to_its_end(undisturbed: tuple[TinySweep, Done]) -> None:
    sweep, done = undisturbed
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 of 3 runs finished" in done.stdout
    assert "ETA" in done.stderr
    assert done.stderr.count(": preparing, from source text") <= 1  # once for all runs
    rows = list(csv.DictReader((sweep.dir / "results.csv").open()))
    assert [(row["run"], row["step"]) for row in rows] == [
        (name, step) for name in NAMES for step in ("10", "20", "30")
    ]
    assert {row["finished"] for row in rows} == {"True"}
    last = {row["run"]: row for row in rows if row["step"] == "30"}
    half = last["R2-a1_2-s0"]
    assert {key: half[key] for key in ("data.repetitions", "objective.alpha", "R", "seed")} == {
        "data.repetitions": "2",
        "objective.alpha": "0.5",
        "R": "2",
        "seed": "0",
    }
    assert half["tokens"] == half["budget_tokens"] == str(30 * 8 * 32)
    assert half["unique_tokens"] == str(30 * 8 * 32 // 2)
    model = config.load(sweep.tiny.recipe).model
    for row in rows:
        assert float(row["flops"]) == int(row["tokens"]) * flops_per_token(model, 32)
    assert float(half["ar_exposures"]) == float(half["md_exposures"]) == 1
    assert float(last["R2-a0-s0"]["md_exposures"]) == 2
    curve = [float(row["valid/ar_nll"]) for row in rows if row["run"] == "R2-a1_2-s0"]
    assert curve == sorted(curve, reverse=True)
    assert all(float(row[f"valid/{name}_se"]) > 0 for row in rows for name in ("ar_nll", "md_nelbo", "prefix_nll"))


def test_a_finished_sweep_trains_nothing(finished: TinySweep) -> None:
    before = finished.table
    (finished.dir / "results.csv").unlink()
    started = time.monotonic()
    done = finished.run()
    assert done.returncode == 0
    assert finished.table == before
    assert not (finished.tiny.folder / "small/logs/R2-a0-s0.log").read_text().count("resuming")
    assert time.monotonic() - started < 60


def test_a_sweep_killed_at_random_moments_ends_with_the_same_table(
    sweep_in: Callable[[Path], TinySweep], undisturbed: tuple[TinySweep, Done], tmp_path: Path
) -> None:
    sweep, draw = sweep_in(tmp_path), random.Random(5)
    executor = sweep.start()
    for victim in ("child", "executor", "executor"):
        wait_for_rows(sweep, executor, sweep.rows() + draw.randint(2, 20))
        if victim == "child":
            draw.choice(psutil.Process(executor.pid).children()).kill()  # retried by the same executor
        else:
            executor.send_signal(signal.SIGKILL)
            executor.finish()
            executor = sweep.start()
    assert executor.finish().returncode == 0
    assert sweep.table == undisturbed[0].table  # to the last digit


def wait_for_rows(sweep: TinySweep, executor: Forked, rows: int) -> None:
    deadline = time.monotonic() + 120
    while sweep.rows() < rows:
        assert executor.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_failing_run_is_tried_twice_and_shown_and_others_continue(finished: TinySweep) -> None:
    for name in ("R2-a0-s0", "R1-a1_2-s0"):
        shutil.rmtree(finished.dir / "runs" / name)
        (finished.dir / "logs" / f"{name}.log").unlink()
    (finished.dir / "runs/R2-a0-s0").mkdir()
    (finished.dir / "runs/R2-a0-s0/notes.txt").write_text("mine")
    before = finished.table
    done = finished.run()
    assert done.returncode == 1
    assert "2 of 3 runs finished" in done.stdout
    assert "R2-a0-s0 failed 2 times; the end of small/logs/R2-a0-s0.log:" in done.stderr
    assert "    dualm: run.dir: small/runs/R2-a0-s0 is not empty" in done.stderr
    assert (finished.dir / "logs/R2-a0-s0.log").read_text().count("is not empty and holds no recipe.yaml") == 2
    assert finished.table == "".join(row for row in before.splitlines(True) if not row.startswith("R2-a0-s0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("alpha: 1/2}]", "alpha: 1}]"), "holds another sweep (point R1-a1_2-s0 is in it, not in this one)"),
        (("steps: 30", "steps: 31"), "holds another sweep (train.steps was 30, is now 31), expected the same one or"),
        (("repetitions: 1,", "repetitions: 1, model.layers: 2,"), "(model.layers was 2, is now 'an axis')"),
    ],
)
def test_another_sweep_may_not_use_the_folder(
    finished: TinySweep,
    change: tuple[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(finished.tiny.folder)
    path, before = Path("sweep.yaml"), sorted(finished.dir.rglob("*"))
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    assert main(["sweep", "sweep.yaml"]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert sorted(finished.dir.rglob("*")) == before


@pytest.fixture
def fresh(sweep_in: Callable[[Path], TinySweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that has not started, in the working directory."""
    sweep_in(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("fresh")
def test_a_folder_with_other_content_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("small").mkdir()
    Path("small/notes.txt").write_text("mine")
    assert main(["sweep", "sweep.yaml"]) == 2
    assert "dir: small is not empty and holds no sweep.yaml" in one_line(capsys.readouterr().err)
    assert main(["sweep", "sweep.yaml", "run.dir=sweep.yaml"]) == 2
    assert "cannot write to sweep.yaml" in one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("fresh")
def test_too_little_text_is_reported_before_anything_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep.yaml", "train.steps=3000"]) == 2
    printed = one_line(capsys.readouterr().err)
    assert "point R2-a0-s0: data.repetitions: got 2, expected at least" in printed
    assert not list(Path("small/runs").iterdir())


def test_a_run_gets_its_share_of_the_machine() -> None:
    assert environment(1, 3, [], 8) == {"OMP_NUM_THREADS": "2"}
    assert environment(5, 8, ["2", "3"], 4) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "3"}


def test_the_eta_excludes_what_was_done_before(tmp_path: Path, sweep_in: Callable[[Path], TinySweep]) -> None:
    sweep_in(tmp_path)
    points = load(tmp_path / "sweep.yaml").points

    def run(index: int, step: int, begun_at: float, status: str) -> Run:
        progress = Progress(step, 30, finished=step == 30, losses={})
        return Run(points[index], Path(), Path(), 100.0, progress, begun_at=begun_at, status=status)

    runs = [run(0, 30, 1.0, "finished"), run(1, 15, 0.0, "running"), run(2, 0, 0.0, "waiting")]
    assert eta(runs, 60.0) == "0:03:00"  # half a run in a minute, one and a half runs left
    assert eta(runs[:1], 60.0) == "unknown"
