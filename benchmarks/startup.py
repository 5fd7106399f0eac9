"""Seconds until a command that only reads has answered, Python's own start included: at most 0.6."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row, interleaved

ROOT = Path(__file__).parent.parent
COMMANDS = ("plan recipes/quickstart.yaml", "show {sweep}/runs/R1-a1-s0", "results {sweep}", "keys", "--help")


def rows(short: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        sweep = shutil.copytree(ROOT / "tests/fixtures/v0.2.0/sweep", Path(folder, "sweep"))
        for command in COMMANDS:
            words = ["-m", "dualm", *command.format(sweep=sweep).split()]
            pairs = interleaved(lambda: _run(words), lambda: _run(["-c", "pass"]), 1 if short else 7)  # noqa: B023
            name = f"start-up, dualm {command.split()[0]}: seconds"
            yield Row.of(name, pairs.a, 0.6, at_least=False, note=f"python alone {pairs.medians[1]:.2f} s")


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
