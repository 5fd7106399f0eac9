"""`dualm` commands in processes forked from an interpreter that has torch and DeepSpeed loaded already.

Loading them takes longer than a tiny training. The process is one of its own all the same: a process group, DeepSpeed's
global state and a SIGKILL end with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])


def _command(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], out: str, error: str) -> None:
    """What the child does: be the command `dualm`."""
    for descriptor, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["dualm", *arguments]
    from dualm.__main__ import run

    run()


class Forked:
    """A command on its way; like `subprocess.Popen` with `stdout=PIPE, stderr=PIPE, text=True`."""

    def __init__(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self.arguments = list(arguments)
        self._files = [tempfile.NamedTemporaryFile("r", prefix="dualm-") for _ in range(2)]  # noqa: SIM115
        names = [file.name for file in self._files]
        self._process: ForkServerProcess = _context.Process(
            target=_command, args=(self.arguments, cwd, dict(environment or {}), *names)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def finish(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for the end. Raises subprocess.TimeoutExpired, after a SIGKILL."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        out, error = (file.read() for file in self._files)
        return subprocess.CompletedProcess(self.arguments, code, out, error)


def run(arguments: Sequence[str], cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """`dualm` with `arguments` in the folder `cwd`, to its end."""
    return Forked(arguments, cwd).finish(timeout)
