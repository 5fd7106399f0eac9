"""A script of one's own that ends in `dualm`, run in a process forked from one that has torch and DeepSpeed loaded."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tests.forked  # noqa: F401  (which tells the server of forks what to load)


def _child(script: Path, arguments: Sequence[str], cwd: Path, said: Path) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    os.chdir(cwd)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def run_script(
    script: Path, arguments: Sequence[str], cwd: Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """`python script arguments` in the folder `cwd`, to its end; stdout holds stderr as well."""
    said = cwd / "said.txt"
    said.unlink(missing_ok=True)
    process = multiprocessing.get_context("forkserver").Process(target=_child, args=(script, arguments, cwd, said))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(list(arguments), timeout)
    return subprocess.CompletedProcess(list(arguments), process.exitcode, said.read_text())
