"""The local executor: several runs at a time on this machine, each in a process of its own.

The status of a run follows from its directory and from how its process ended. The executor can therefore be stopped and
started again at any time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualm.sweep import scores
from dualm.sweep.folder import Progress, is_locked, progress
from dualm.sweep.grid import Point, Sweep
from dualm.sweep.sections import Tasks

ATTEMPTS = 2  # a failed run is tried once more
POLL = 0.5  # seconds
PR_SET_PDEATHSIG = 1  # linux/prctl.h
libc = ctypes.CDLL(None)


@dataclass
class Run:
    """One run of the sweep, as the executor sees it."""

    point: Point
    log: Path
    recipe: Path
    flops: float
    progress: Progress
    scored_on: Tasks | None = None  # benchmark tasks
    begun_at: float = 0.0  # fraction that was done before the executor started
    scoring: bool = False  # its process scores the trained model; otherwise it trains
    attempts: int = 0
    status: str = "waiting"  # waiting | running | finished | failed | stopped
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    slot: int = 0

    @property
    def dir(self) -> Path:
        return Path(self.point.recipe.run.dir)

    def update(self) -> None:
        """Read the progress from the run directory."""
        self.progress = progress(self.dir, self.point.recipe)

    def end_of_log(self) -> str:
        """The last eight lines of its log, indented."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"    {line}" for line in text.splitlines() if line.strip()][-8:])

    @property
    def command(self) -> list[str]:
        if self.scoring:
            assert self.scored_on
            return scores.command(self.scored_on, self.dir)
        return [sys.executable, "-m", "dualm", "train", str(self.recipe)]

    def start(self, slot: int, environment: dict[str, str]) -> None:
        """Start the next process: the training, or the scoring if the training is finished."""
        self.slot, self.attempts, self.status = slot, self.attempts + 1, "running"
        self.scoring = self.progress.finished
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches only the executor, which passes it on once
                preexec_fn=terminate_with(os.getpid()),
            )

    def settle(self, stopping: bool) -> None:
        """Set the status after the process of the run has ended."""
        self.process = None
        self.update()
        if self.progress.finished and scores.are_there(self.scored_on, self.dir):
            self.status = "finished"
        elif stopping:
            self.status = "stopped"
        elif self.progress.finished and not self.scoring:
            self.status, self.attempts = "waiting", 0  # to be scored
        else:
            self.status = "waiting" if self.attempts < ATTEMPTS else "failed"


def terminate_with(parent: int) -> Callable[[], None]:
    """A function for the child process to call first: the child gets a SIGTERM when this process dies for any reason."""

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return arrange


def runs_of(sweep: Sweep, points: Sequence[Point], flops: dict[str, float]) -> list[Run]:
    """The runs of `points`, with the progress found in their directories; `flops` is the cost of each, by name."""
    made = []
    for point in points:
        folder = Path(point.recipe.run.dir)
        found = progress(folder, point.recipe)
        done = found.finished and scores.are_there(sweep.tasks, folder)
        log, recipe = sweep.dir / "logs" / f"{point.name}.log", sweep.dir / "recipes" / f"{point.name}.yaml"
        state = {"begun_at": found.fraction, "status": "finished" if done else "waiting"}
        made.append(Run(point, log, recipe, flops[point.name], found, sweep.tasks, **state))
    return made


class Stop:
    """Remembers the signal that asked to stop. A second signal kills the runs."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.again = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.again = self.signal is not None
        self.signal = number


def execute(runs: Sequence[Run], parallel: int, show: Callable[[bool], None]) -> int | None:
    """Train and score all runs, `parallel` at a time. Returns the signal that stopped the executor, if there was one.

    `show(changed)` is called at every poll; `changed` says whether a run has ended since the last one.
    """
    stop = Stop()
    passed_on = False
    while True:
        running = with_status(runs, "running")
        if stop.signal is not None and (not passed_on or stop.again):
            _send(running, signal.SIGKILL if stop.again else signal.SIGTERM)
            passed_on, stop.again = True, False
        ended = [run for run in running if run.process and run.process.poll() is not None]
        for run in ended:
            run.settle(stopping=stop.signal is not None)
        if stop.signal is None:
            _fill(runs, parallel)
        active = with_status(runs, "running")
        for run in active:
            run.update()
        show(bool(ended))
        if not active and (stop.signal is not None or not with_status(runs, "waiting")):
            return stop.signal
        time.sleep(POLL)


def with_status(runs: Sequence[Run], status: str) -> list[Run]:
    return [run for run in runs if run.status == status]


def _send(runs: Sequence[Run], number: int) -> None:
    for run in runs:
        assert run.process
        run.process.send_signal(number)


def _fill(runs: Sequence[Run], parallel: int) -> None:
    """Start waiting runs on free slots. A run that another process is still training stays waiting."""
    taken = {run.slot for run in with_status(runs, "running")}
    free = [slot for slot in range(parallel) if slot not in taken]
    for run in with_status(runs, "waiting"):
        if free and not is_locked(run.dir):
            slot = free.pop(0)
            run.start(slot, environment(slot, parallel, visible_gpus(), cores()))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count, listed = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]


def environment(slot: int, parallel: int, gpus: Sequence[str], cores: int) -> dict[str, str]:
    """The environment of the run in `slot` of `parallel`: its share of the cores, and one GPU if there are any."""
    gpu = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
    return {"OMP_NUM_THREADS": str(max(1, cores // parallel)), **gpu}
