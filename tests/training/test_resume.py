"""Promise 5: a run killed at any moment goes on to the losses of one that was never stopped."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Tiny
from tests.forked import Forked
from tests.launched import Launched

STEPS = "train.steps=12"
MDLM = ("model.dropout=0.1", "model.time_conditioning=8", "optimizer.ema=0.9")  # what else a run carries on


def kill_after_step(tiny: Tiny, process: Forked | Launched, step: int, how: signal.Signals) -> str:
    """Send a run a signal once it has logged `step`, return its stderr."""
    metrics = tiny.folder / "run/metrics.jsonl"
    deadline = time.monotonic() + 120
    while f'"step": {step},' not in (metrics.read_text() if metrics.exists() else ""):
        assert process.poll() is None, process.finish().stderr
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    return process.finish(timeout=120).stderr


@pytest.mark.parametrize(
    ("optimizer", "stage", "launcher", "world", "more"),
    [
        ("adamw", 0, "forked", 1, ()),
        ("muon", 1, "forked", 1, MDLM),
        ("adamw", 2, "torchrun", 2, ()),
        ("muon", 3, "forked", 2, ()),
        ("adamw", 3, "forked", 2, MDLM),
    ],
)
def test_killed_twice_ends_the_same(
    tiny: Tiny, optimizer: str, stage: int, launcher: str, world: int, more: tuple[str, ...]
) -> None:
    keys = (STEPS, f"optimizer.name={optimizer}", f"train.zero_stage={stage}", *more)
    tiny.train(*keys, run="whole", world=world)
    for step in (3, 8):
        said = kill_after_step(tiny, tiny.start(*keys, launcher=launcher, world=world), step, signal.SIGKILL)
        assert ("resuming from" in said) == (step == 8)
    assert "resuming from" in tiny.train(*keys, world=world).stderr
    assert tiny.losses() == tiny.losses("whole")  # to the last bit
    assert len(tiny.losses()) == 12
    final = [row for row in tiny.rows() if "valid/md_nelbo" in row][-1]
    assert final == [row for row in tiny.rows("whole") if "valid/md_nelbo" in row][-1]
    saved, expected = (tiny.folder / run / "checkpoints/step-000012/model.safetensors" for run in ("run", "whole"))
    assert saved.read_bytes() == expected.read_bytes()


def test_two_processes_do_not_train_in_one_directory(tiny: Tiny) -> None:
    keys = ("train.steps=5000", "data.repetitions=100", "checkpoint.every=0")
    first = tiny.start(*keys)
    while not (tiny.folder / "run/metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = tiny.train(*keys, check=False)
    assert first.poll() is None
    assert second.returncode == 2
    assert "another process is training in" in second.stderr
    first.send_signal(signal.SIGTERM)
    assert first.finish(timeout=60).returncode == 0
    assert tiny.losses().keys() == set(range(1, max(tiny.losses()) + 1))


def test_sigterm_writes_a_checkpoint(tiny: Tiny) -> None:
    keys = (STEPS, "checkpoint.every=0", "checkpoint.before_cooldown=false")
    said = kill_after_step(tiny, tiny.start(*keys), 5, signal.SIGTERM)
    assert "stopped by a signal after step" in said
    (stopped,) = (tiny.folder / "run/checkpoints").glob("step-*")
    assert 5 <= int(stopped.name.removeprefix("step-")) < 12
    tiny.train(*keys)
    tiny.train(*keys, run="whole")
    assert tiny.losses() == tiny.losses("whole")


@pytest.fixture(scope="module")
def undisturbed(tiny_in: Callable[[Path], Tiny], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_in(tmp_path_factory.mktemp("undisturbed"))
    tiny.train(STEPS, "checkpoint.keep=9")
    return tiny.folder / "run"


@pytest.fixture
def finished(undisturbed: Path, tiny: Tiny) -> tuple[Tiny, list[Path]]:
    """A copy of a run that ended, and its checkpoints."""
    shutil.copytree(undisturbed, tiny.folder / "run")
    return tiny, sorted((tiny.folder / "run/checkpoints").glob("step-*"))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))


def test_damaged_checkpoints_are_passed_over(finished: tuple[Tiny, list[Path]]) -> None:
    tiny, folders = finished
    losses = tiny.losses()
    damage(folders[-1] / "model.safetensors", "flip")
    damage(next((folders[-2] / "deepspeed").rglob("*.pt")), "truncate")
    (folders[-3] / "manifest.json").unlink()
    said = tiny.train(STEPS, "checkpoint.keep=9").stderr
    assert "step-000012: model.safetensors is truncated or altered" in said
    assert "step-000010: deepspeed/state/" in said
    assert "step-000008: manifest missing or unreadable" in said
    assert f"resuming from {folders[-4]}" in " ".join(said.split())
    assert tiny.losses() == losses

    for folder in (tiny.folder / "run/checkpoints").glob("step-*"):
        damage(folder / "tokenizer.json", "flip")
    done = tiny.train(STEPS, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("checkpoints is whole")


def test_a_finished_run_is_shown_again_not_trained(finished: tuple[Tiny, list[Path]]) -> None:
    tiny, _ = finished
    rows = len(tiny.rows())
    assert "AR NLL" in tiny.train(STEPS, "checkpoint.keep=9").stdout
    assert len(tiny.rows()) == rows


def test_only_the_last_periodic_checkpoints_are_kept(tiny: Tiny) -> None:
    tiny.train(STEPS, "checkpoint.every=1", "checkpoint.keep=2", "checkpoint.exponential=true")
    kept = sorted(int(folder.name.removeprefix("step-")) for folder in (tiny.folder / "run/checkpoints").glob("step-*"))
    assert kept == [1, 2, 4, 8, 10, 11, 12]  # powers of two, the last; 8 is also where the cooldown begins
    assert not list((tiny.folder / "run/checkpoints").glob(".*"))


def test_another_recipe_may_not_use_the_directory(finished: tuple[Tiny, list[Path]]) -> None:
    tiny, _ = finished
    done = tiny.train(STEPS, "objective.alpha=0.25", check=False)
    assert done.returncode == 2
    assert "(objective.alpha was 0.5, is now 0.25)" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(tiny.folder / "run")
    (tiny.folder / "run").mkdir()
    (tiny.folder / "run/notes.txt").write_text("mine")
    done = tiny.train(STEPS, check=False)
    assert done.returncode == 2
    assert "holds no recipe.yaml" in done.stderr
    assert [path.name for path in (tiny.folder / "run").iterdir()] == ["notes.txt"]
