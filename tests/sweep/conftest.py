"""A tiny sweep as a user would run it: three runs of one second each, two at a time."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Tiny
from tests.forked import Forked

SWEEP = """
base: tiny.yaml
dir: small
recipe:
  train: {steps: 30}
  validate: {every: 10, sample_tokens: 0}
  checkpoint: {every: 5, keep: 1, before_cooldown: false}
points: [{data.repetitions: 2, objective.alpha: [0, 1/2]}, {data.repetitions: 1, objective.alpha: 1/2}]
parallel: 2
"""
NAMES = ("R2-a0-s0", "R1-a1_2-s0", "R2-a1_2-s0")


@dataclass(frozen=True)
class TinySweep:
    tiny: Tiny

    @property
    def dir(self) -> Path:
        return self.tiny.folder / "small"

    @property
    def table(self) -> str:
        return (self.dir / "results.csv").read_text()

    def start(self, *words: str) -> Forked:
        return Forked(["sweep", "sweep.yaml", *words], self.tiny.folder)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.start(*words).finish()

    def rows(self) -> int:
        """The number of rows of metrics that all runs have written."""
        files = (self.dir / "runs" / name / "metrics.jsonl" for name in NAMES)
        return sum(file.read_text().count("\n") for file in files if file.exists())


@pytest.fixture(scope="session")
def sweep_in(tiny_in: Callable[[Path], Tiny]) -> Callable[[Path], TinySweep]:
    """Makes a `TinySweep` in a folder, without running it."""

    def make(folder: Path) -> TinySweep:
        (folder / "sweep.yaml").write_text(SWEEP)
        return TinySweep(tiny_in(folder))

    return make


@pytest.fixture(scope="session")
def undisturbed(
    sweep_in: Callable[[Path], TinySweep], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinySweep, subprocess.CompletedProcess[str]]:
    """A sweep that ran to its end, with its output. Tests must not change it."""
    sweep = sweep_in(tmp_path_factory.mktemp("undisturbed"))
    return sweep, sweep.run()


@pytest.fixture
def finished(
    undisturbed: tuple[TinySweep, subprocess.CompletedProcess[str]], tmp_path: Path, tiny_in: Callable[[Path], Tiny]
) -> TinySweep:
    """A copy of it."""
    shutil.copytree(undisturbed[0].tiny.folder, tmp_path, dirs_exist_ok=True)
    return TinySweep(tiny_in(tmp_path))
