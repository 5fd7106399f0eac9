"""Promise 6 and 7: bad input is one line and exit code 2; every recipe can be planned."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dualm.cli import main
from tests.conftest import Tiny
from tests.launched import LAUNCHERS
from tests.test_config import RECIPES

ROOT = Path(__file__).parent.parent


def one_line(captured: str) -> str:
    (line,) = [line for line in captured.splitlines() if line.startswith("dualm: ")]
    assert "Traceback" not in captured
    return line


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    for key in ("parameters", "unique tokens", "steps", "AR / MD exposures", "training FLOPs", "GiB per GPU"):
        assert key in said


def test_a_large_recipe_is_planned_without_building_it(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(next(path for path in RECIPES if path.stem == "dual-470m"))
    assert main(["plan", recipe, "--gpus", "256", "data.repetitions=128"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "16 / 112" in said  # alpha: auto gives 16 of 128 exposures to AR
    assert main(["plan", recipe, "--gpus", "7"]) == 2
    assert "expected a multiple of train.micro_batch * world size = 8 * 7" in one_line(capsys.readouterr().err)


def test_the_command_line_is_built_without_torch() -> None:
    script = "import sys; from dualm.cli import parser; parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


HEAVY = {"torch", "deepspeed", "transformers", "scipy", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("plan recipes/quickstart.yaml", set()),
        ("show {sweep}/runs/R1-a1-s0", set()),
        ("results {sweep}", {"pandas"}),
        ("keys", set()),
        ("sweep sweeps/repetition-50-cpu.yaml --dry-run", set()),
    ],
)
def test_what_only_reads_imports_no_heavy_library(words: str, needed: set[str], tmp_path: Path) -> None:
    sweep = shutil.copytree(ROOT / "tests/fixtures/v0.2.0/sweep", tmp_path / "sweep")
    heavy = sorted(HEAVY - needed)
    script = f"import sys; from dualm.cli import main; assert main({words.format(sweep=sweep).split()!r}) == 0; "
    script += f"print('loaded:', *sys.modules.keys() & {heavy!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.name=sgd"], "optimizer.name: got 'sgd', expected adamw or muon"),
        (["schedule.name=step"], "schedule.name: got 'step'"),
        (["data.train=[]"], "data.train: got [], expected the files of source 'text'"),
        (["objective.weighting=heavy"], "objective.weighting: got 'heavy', expected elbo or flat"),
        (["objective.md=autoregressive"], "objective.md: got 'autoregressive', expected masked_diffusion"),
        (["objective.time=never"], "objective.time: got 'never'"),
        (["data.format=loose"], "data.format: got 'loose', expected packed or rows or pairs"),
        (["data.separator=''"], "data.separator: got '', expected at least one character"),
        (["model.attention=magic"], "model.attention: got 'magic'"),
        (["data.repetitions=1000"], "data.repetitions: got 1000, expected at most"),
    ],
)
def test_plan_refuses_what_train_would(
    tiny: Tiny, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny.recipe), *overrides]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_train_refuses_it_before_anything_is_written(tiny: Tiny) -> None:
    done = tiny.train("optimizer.name=sgd", check=False)
    assert done.returncode == 2
    assert "optimizer.name: got 'sgd'" in one_line(done.stderr)
    assert not (tiny.folder / "run").exists()


def empty(folder: Path) -> list[str]:
    (folder / "empty.txt").touch()
    return [f"data.train=[{folder / 'empty.txt'}]"]


def not_utf8(folder: Path) -> list[str]:
    (folder / "latin.txt").write_bytes("café\n\nnoir".encode("latin-1"))
    return [f"data.train=[{folder / 'latin.txt'}]"]


def too_short(folder: Path) -> list[str]:
    (folder / "short.txt").write_text("one\n\ntwo\n\nthree")
    return [f"data.train=[{folder / 'short.txt'}]"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "empty.txt"),
        (not_utf8, "latin.txt"),
        (too_short, "48 windows) are asked for, the corpus has"),
        (lambda folder: [f"data.train=[{folder}/nothing*.txt]"], "nothing*.txt"),
        (lambda folder: [f"data.tokenizer={folder}/no-tokenizer.json"], "no-tokenizer.json"),
    ],
)
def test_bad_data_leaves_nothing_behind(
    tiny: Tiny, make: Callable[[Path], list[str]], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [*make(tiny.folder), f"data.dir={tiny.folder / 'prepared'}"]
    before = {path.name for path in tiny.folder.iterdir()}
    done = tiny.train(*overrides, check=False)
    assert done.returncode == 2
    assert message in one_line(done.stderr)
    left = {path.name for path in tiny.folder.iterdir()} - before
    if make is not too_short:  # that corpus was prepared whole; only training can't use it
        assert {name for name in left if not name.endswith(".lock")} == set()


def test_more_unique_tokens_than_the_corpus_has(tiny: Tiny) -> None:
    done = tiny.train("train.steps=100000", check=False)
    assert done.returncode == 2
    assert "data.repetitions: got 1, expected at least" in one_line(done.stderr)
    assert not (tiny.folder / "run").exists()


def test_shards_altered_or_of_another_tokenizer_are_refused(tiny: Tiny) -> None:
    data = tiny.folder / "data"
    tiny.train("train.steps=1", f"data.dir={data}", run="first")
    shard = data / "train-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    done = tiny.train("train.steps=1", f"data.dir={data}", run="second", check=False)
    assert done.returncode == 2
    assert "train-00000.npy" in one_line(done.stderr)
    done = tiny.train("train.steps=1", f"data.dir={data}", "data.tokenizer=chars", run="third", check=False)
    assert done.returncode == 2
    assert "tokenizer" in one_line(done.stderr)


def test_the_launchers_report_one_line_too(tiny: Tiny) -> None:
    done = tiny.train("train.micro_batch=8", check=False, launcher="torchrun", world=2)
    assert done.returncode != 0
    # torchrun adds a report of its own; we add one line, from one rank.
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dualm: ")]
    assert "train.global_batch: got 8, expected a multiple of train.micro_batch * world size = 8 * 2" in line


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux's unshare for a small file system")
def test_a_full_disk_is_one_line(tiny: Tiny) -> None:
    disk = tiny.folder / "disk"
    disk.mkdir()
    command = " ".join([*LAUNCHERS["plain"](1), *tiny.arguments("checkpoint.every=1", run="disk/run")])
    script = f"mount -t tmpfs -o size=300k none {disk} && {command}; code=$?; ls -A {disk}/run/checkpoints; exit $code"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=tiny.folder, timeout=120
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    assert done.returncode == 2
    assert "No space left" in one_line(done.stderr)
    assert done.stdout.strip() == ""  # no half-written checkpoint


def test_show_wants_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "expected a run directory" in one_line(capsys.readouterr().err)


def test_debug_shows_the_traceback(tiny: Tiny) -> None:
    command = [sys.executable, "-m", "dualm", "plan", str(tiny.recipe), "--debug", "model.attention=magic"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" in done.stderr
