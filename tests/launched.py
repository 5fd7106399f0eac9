"""Trainings under the launchers that users have: an interpreter alone, torchrun, deepspeed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import psutil

LAUNCHERS = {
    "plain": lambda world: [sys.executable, "-m", "dualm"],
    "torchrun": lambda world: [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node", str(world), "-m", "dualm"),
    ],
    "deepspeed": lambda world: [
        *(str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(world)),
        *("--master_port", str(random.randint(20000, 50000)), "--module", "dualm"),
    ],
}


class Launched:
    """Such a training on its way, with the methods of `Forked`."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd)

    def poll(self) -> int | None:
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """To the launcher and all ranks, as when a node dies."""
        workers = psutil.Process(self._process.pid).children(recursive=True)
        for process in (self._process, *workers):
            process.send_signal(number)
        psutil.wait_procs(workers, timeout=30)

    def finish(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        out, error = self._process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(self._process.args, self._process.returncode, out, error)
