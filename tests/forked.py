"""`dualm` commands in processes forked from an interpreter that has torch and DeepSpeed loaded already.

Loading them takes longer than a tiny training. The process is one of its own all the same: a process group, DeepSpeed's
global state and a SIGKILL end with it. On GPUs nothing is loaded before: CUDA does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
if os.environ.get("DUALM_TEST_GPU") != "1":
    _context.set_forkserver_preload(["tests.preloaded"])


def command() -> None:
    """Be the command `dualm`."""
    from dualm.__main__ import run

    run()


def _child(
    main: Callable[[], None], arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], out: str, error: str
) -> None:
    for descriptor, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["dualm", *arguments]
    main()


class Forked:
    """A command on its way; like `subprocess.Popen` with `stdout=PIPE, stderr=PIPE, text=True`.

    With a `world`, as many ranks of one process group. Another `main` than the command is called in every child; it is
    a function of a module, or a `functools.partial` of one.
    """

    def __init__(
        self, arguments: Sequence[str], cwd: Path, *, world: int = 1, main: Callable[[], None] = command
    ) -> None:
        self.arguments = list(arguments)
        self._files = [tempfile.NamedTemporaryFile("r", prefix="dualm-") for _ in range(2)]  # noqa: SIM115
        names = [file.name for file in self._files]
        self._processes = [
            _context.Process(target=_child, args=(main, self.arguments, cwd, environment, *names), daemon=True)
            for environment in ranks(world)
        ]
        for process in self._processes:
            process.start()

    @property
    def pid(self) -> int:
        """That of the first rank."""
        assert self._processes[0].pid is not None
        return self._processes[0].pid

    def poll(self) -> int | None:
        """None as long as a rank runs; then 0, or the exit code of the first that failed."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next(filter(None, codes), 0)

    def send_signal(self, number: int) -> None:
        """To every rank."""
        for process in self._processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def finish(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for the end. Raises subprocess.TimeoutExpired, after a SIGKILL."""
        deadline = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(0, deadline - time.monotonic()))
        code = self.poll()
        if code is None:
            for process in self._processes:
                process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        out, error = (file.read() for file in self._files)
        return subprocess.CompletedProcess(self.arguments, code, out, error)


def ranks(world: int) -> list[dict[str, str]]:
    """What a launcher tells its ranks in their environments; a process alone needs none."""
    if world == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def run(arguments: Sequence[str], cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """`dualm` with `arguments` in the folder `cwd`, to its end."""
    return Forked(arguments, cwd).finish(timeout)
