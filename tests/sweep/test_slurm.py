"""The Slurm executor without Slurm: jobs run on submitit's local cluster, and the batch script is read, not submitted.

Not tested, because it needs a cluster: the queue itself, several nodes, and `sacct`, which reports the ended jobs.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dualm.cli import main
from dualm.sweep import grid, local
from dualm.sweep.folder import enter
from dualm.sweep.slurm import executor_for, launch, port, submit
from tests.sweep.conftest import NAMES, TinySweep
from tests.test_cli import one_line

submitit = pytest.importorskip("submitit")

SECTION = "slurm: {partition: long, nodes: 2, gpus_per_node: 8, timeout_min: 90, setup: [module load cuda]}\n"


def with_section(sweep: TinySweep, section: str) -> Path:
    path = sweep.tiny.folder / "sweep.yaml"
    path.write_text(path.read_text() + section)
    return path


def loaded(path: Path) -> tuple[grid.Sweep, list[local.Run]]:
    sweep = grid.load(path)
    enter(sweep)
    return sweep, local.runs_of(sweep, sweep.points, {point.name: 1.0 for point in sweep.points})


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str) -> None:
    """Install fake Slurm commands that only print what Slurm would print."""
    (folder / "bin").mkdir()
    for name, script in {
        "srun": "exit 1",
        "sbatch": sbatch,
        "sacct": "echo 'JobID|State'; echo '77_[0-2]|PENDING'",
    }.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_runs_are_submitted_as_one_array(
    sweep_in: Callable[[Path], TinySweep],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_section(sweep_in(tmp_path), SECTION)
    monkeypatch.chdir(tmp_path)
    fake(tmp_path, monkeypatch, 'cp "$1" submitted.sh; echo "Submitted batch job 77"')
    words = ["sweep", "sweep.yaml", "--executor", "slurm", "train.global_batch=32", "train.steps=10"]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert "3 jobs submitted, 0 already in the queue" in capsys.readouterr().out
    script = Path("submitted.sh").read_text()
    for line in (
        "#SBATCH --array=0-2%2",  # parallel: 2
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --time=90",
        "#SBATCH --partition=long",
        "#SBATCH --signal=USR2@180",
        "module load cuda",
    ):
        assert line in script.splitlines()
    assert "--kill-on-bad-exit=1" in script
    assert json.loads(Path("small/slurm/jobs.json").read_text()) == {name: f"77_{n}" for n, name in enumerate(NAMES)}
    Path("submitted.sh").unlink()
    with pytest.raises(SystemExit):
        main(words)
    assert "0 jobs submitted, 3 already in the queue" in capsys.readouterr().out
    assert not Path("submitted.sh").exists()


def test_an_error_of_slurm_or_its_absence_is_one_line(
    sweep_in: Callable[[Path], TinySweep],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_section(sweep_in(tmp_path), "slurm: {partition: none}\n")
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "sweep.yaml", "--executor", "slurm"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(words) == 2
    assert "--executor slurm: no srun found" in one_line(capsys.readouterr().err)
    fake(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition specified: none' >&2; exit 1")
    assert main(words) == 2
    assert "invalid partition specified: none" in one_line(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(words) == 2
    printed = one_line(capsys.readouterr().err)
    assert "submitit is not installed, expected after: pip install -r requirements-sweep.txt" in printed


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{nodes: 0}", "sweep.yaml: slurm.nodes: got 0, expected at least 1"),
        ("{gpus: 8}", "sweep.yaml: slurm: unknown key 'gpus', expected one of partition, account"),
        ("{timeout_min: long}", "sweep.yaml: slurm.timeout_min: "),
        ("[8]", "sweep.yaml: slurm: got [8], expected a mapping"),
        ("{gpus_per_node: 3}", "point R2-a0-s0: train.global_batch: got 8, expected a multiple of"),
    ],
)
def test_mistakes_are_one_line(
    sweep_in: Callable[[Path], TinySweep],
    tmp_path: Path,
    section: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = with_section(sweep_in(tmp_path), f"slurm: {section}\n")
    assert main(["sweep", str(path), "--executor", "slurm", "--dry-run"]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_the_dry_run_counts_the_gpus_of_a_run(
    sweep_in: Callable[[Path], TinySweep], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_section(sweep_in(tmp_path), SECTION)
    assert main(["sweep", str(path), "--executor", "slurm", "--dry-run", "train.global_batch=32"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 at a time, " in printed
    assert "16 GPUs each" in printed


def test_several_ranks_are_started_by_the_launcher() -> None:
    recipe = Path("R1.yaml")
    assert launch(recipe, 1, ["alone"], 0, 1) == [sys.executable, "-m", "dualm", "train", "R1.yaml"]
    command = launch(recipe, 2, ["n1", "n2"], 1, 20077)
    assert command[3:4] == ["deepspeed.launcher.launch"]
    world = next(word for word in command if word.startswith("--world_info=")).partition("=")[2]
    assert json.loads(base64.urlsafe_b64decode(world)) == {"n1": [0, 1], "n2": [0, 1]}
    assert {"--node_rank=1", "--master_addr=n1", "--master_port=20077"} <= set(command)
    assert port("77_3") == port("773")
    assert 20_000 <= port("123456789_1") < 40_000


def test_a_preempted_job_is_submitted_again_and_continues(
    sweep_in: Callable[[Path], TinySweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks under the launcher on submitit's local cluster are stopped by the signal that Slurm sends."""
    path = with_section(sweep_in(tmp_path), "slurm: {gpus_per_node: 2, timeout_min: 10}\n")
    longer = {"{steps: 30}": "{steps: 100}", "every: 10": "every: 0", "repetitions: 2": "repetitions: 20"}
    for old, new in longer.items():
        path.write_text(path.read_text().replace(old, new))
    monkeypatch.chdir(tmp_path)
    sweep, runs = loaded(Path("sweep.yaml"))
    run = runs[0]
    (job,) = submit(executor_for(sweep, 1, "local"), sweep, [run])
    deadline = time.monotonic() + 120
    while run.progress.step < 5:
        assert not job.done(), job.stderr()
        assert time.monotonic() < deadline
        time.sleep(0.05)
        run.update()
    for process in psutil.Process(int(job.job_id)).children(recursive=True):
        process.send_signal(signal.SIGUSR2)
    job.wait()
    assert job.exception() is None, job.stderr()
    run.update()
    assert run.progress.finished
    log = run.log.read_text()
    assert "stopped by a signal after step" in log
    assert "resuming from" in log
    assert (
        submit(executor_for(sweep, 1, "local"), sweep, local.runs_of(sweep, [run.point], {run.point.name: 1.0})) == []
    )
