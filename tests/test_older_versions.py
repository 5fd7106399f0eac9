"""What an older version left behind is resumed, read and analysed by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import dualm
from tests import forked

VERSIONS = sorted((Path(__file__).parent / "fixtures").glob("v*"))


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def left_behind(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the folder of a version."""
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def numerics(folder: Path) -> int:
    manifest = folder / "runs/half/checkpoints/step-000004/manifest.json"
    return json.loads(manifest.read_text()).get("numerics", 1)


def test_a_run_of_the_same_numerics_is_resumed_and_no_other(left_behind: Path) -> None:
    before = (left_behind / "runs/half/metrics.jsonl").read_text()
    done = forked.run(["train", "recipe.yaml"], left_behind)
    if numerics(left_behind) != dualm.NUMERICS:
        assert done.returncode == 2
        assert "step-000004: was written by dualm 0." in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert (left_behind / "runs/half/metrics.jsonl").read_text() == before
        return
    assert done.returncode == 0, done.stderr
    assert "resuming from runs/half/checkpoints/step-000004" in done.stderr
    assert "used again" in done.stderr
    rows = [json.loads(line) for line in (left_behind / "runs/half/metrics.jsonl").read_text().splitlines()]
    losses = {str(row["step"]): row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == pytest.approx(json.loads((left_behind / "whole.json").read_text()), abs=2e-5)


def test_a_run_is_read(left_behind: Path) -> None:
    done = forked.run(["show", "runs/half"], left_behind)
    assert done.returncode == 0, done.stderr
    assert "after step 4" in done.stdout
    model = dualm.load(left_behind / "runs/half")
    (score,) = model.score([("the old sea", " sang")], mode="pll")
    assert -100 < score.log_likelihood < 0


def test_a_sweep_is_analysed(left_behind: Path) -> None:
    done = forked.run(["results", "sweep"], left_behind)
    assert done.returncode == 0, done.stderr
    assert "of 6 runs" in done.stdout
    done = forked.run(["analyze", "sweep"], left_behind)
    assert done.returncode == 0, done.stderr
    assert (left_behind / "sweep/analysis/report.html").exists()
