"""The table of a sweep: rebuilt from the run directories, with one line for everything that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from dualm.cli import main
from dualm.errors import UserError
from dualm.sweep.results import load_results
from tests.sweep.conftest import TinySweep
from tests.test_cli import one_line


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def results(sweep: TinySweep, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert main(["results", str(sweep.dir)]) == 0
    return capsys.readouterr()


def test_the_table_is_rebuilt_from_the_runs(
    finished: TinySweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = finished.table
    (finished.dir / "results.csv").unlink()
    (finished.dir / "results.parquet").unlink()
    printed, notes = results(finished, capsys)
    assert "9 rows of 3 runs" in printed
    assert not notes
    assert finished.table == before
    table = load_results(finished.dir)
    for file in ("results.csv", "results.parquet"):
        pd.testing.assert_frame_equal(load_results(finished.dir / file), table)
    moved = finished.dir.rename(finished.tiny.folder / "moved")  # the folder of a sweep can be moved
    monkeypatch.chdir(moved)
    pd.testing.assert_frame_equal(load_results("."), table)


def test_an_older_table_without_flops_can_be_read(finished: TinySweep) -> None:
    table = load_results(finished.dir).drop(columns="flops")
    table.to_csv(finished.tiny.folder / "older.csv", index=False)
    assert len(load_results(finished.tiny.folder / "older.csv")) == len(table)


def test_torn_lines_and_absent_runs_are_left_out_and_reported(
    finished: TinySweep, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = finished.dir / "runs/R2-a0-s0/metrics.jsonl"
    cut(metrics, metrics.stat().st_size - 30)
    shutil.rmtree(finished.dir / "runs/R1-a1_2-s0")
    printed, notes = results(finished, capsys)
    assert "5 rows of 2 runs" in printed
    assert notes.splitlines() == [
        "R2-a0-s0: 1 line of metrics.jsonl left out, cut off in the middle",
        "1 of 3 runs left out, not validated yet",
    ]
    table = load_results(finished.dir)
    torn = table[table["run"] == "R2-a0-s0"]
    assert list(torn["step"]) == [10, 20]
    assert not torn["finished"].any()


def test_no_run_finished_yet(finished: TinySweep, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (finished.dir / "runs").iterdir():
        shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="small: no run is finished yet, expected at least one"):
        load_results(finished.dir)
    shutil.rmtree(finished.dir / "runs")
    with pytest.raises(UserError, match="no run is finished yet"):
        load_results(finished.dir)
    printed, notes = results(finished, capsys)  # an empty table is a valid table
    assert "0 rows of 0 runs" in printed
    assert notes == "3 of 3 runs left out, not validated yet\n"


def test_a_path_without_sweep_or_table_is_one_line(finished: TinySweep, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished.tiny.folder
    assert main(["results", str(folder / "nowhere")]) == 2
    assert "nowhere: holds no sweep.yaml, expected the folder of a sweep" in one_line(capsys.readouterr().err)
    (finished.dir / "sweep.yaml").write_text("axes: [")
    assert main(["results", str(finished.dir)]) == 2
    assert "small/sweep.yaml: not a sweep's definition" in one_line(capsys.readouterr().err)
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "torn.parquet").write_bytes((finished.dir / "results.parquet").read_bytes()[:-9])
    for path, message in {
        folder / "nowhere": "nowhere: holds no results, expected a sweep's folder, or results.parquet or results.csv",
        folder / "other.csv": "other.csv: not a results table: no column 'run'",
        folder / "torn.parquet": "torn.parquet: not a results table",
    }.items():
        with pytest.raises(UserError) as error:
            load_results(path)
        assert message in str(error.value)
