"""The Slurm executor: every unfinished run is a job of one array, handed in through submitit; nothing stays behind to watch.

    dualm sweep small.yaml --executor slurm     hands in what is neither finished nor queued; call it again at any time
    dualm results runs/small                    the table so far

A job has one task on each of its nodes; that task starts a rank for every GPU of the node, by DeepSpeed's launcher if there
is more than one rank in all. Shortly before Slurm ends a job (preemption or its time limit) it sends a signal: the run
writes a checkpoint, the job is put back into the queue, and there the same command goes on from it.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from dualm import config, files
from dualm.errors import UserError
from dualm.sweep import scores
from dualm.sweep.folder import progress
from dualm.sweep.grid import Sweep
from dualm.sweep.local import ATTEMPTS, Task, cores
from dualm.sweep.sections import Slurm, Tasks

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission

LAUNCHER = (
    "deepspeed.launcher.launch"  # DeepSpeed's own, for the ranks of one node: needs neither ssh nor a file of hosts
)
NOTICE = 180  # seconds between Slurm's signal and the end of the job
USUAL = ("nodes", "cpus_per_task", "gpus_per_node", "mem_gb", "timeout_min")  # submitit's names on every cluster


@dataclass
class Job:
    """What every node of a run's job does. Pickled when it is handed in."""

    recipe: Path
    log: Path
    ranks_per_node: int
    scored_on: Tasks | None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __call__(self) -> None:
        """Train the run to its end and score it; a failure is tried once more, unless other nodes wait for this one.

        Raises:
            RuntimeError: it failed; the end of its log says why.
        """
        from submitit import JobEnvironment

        here = JobEnvironment()
        train = launch(self.recipe, self.ranks_per_node, here.hostnames, here.node, port(here.job_id))
        attempts = ATTEMPTS if here.num_nodes == 1 else 1
        if here.node > 0:
            self._run(train)
        elif not any(self._run(train) == 0 and self.is_trained for _ in range(attempts)):
            raise RuntimeError(f"{self.recipe} failed; see {self.log}")
        elif self.scored_on and not scores.are_there(self.scored_on, self.dir):
            self._run(scores.command(self.scored_on, self.dir))

    @property
    def dir(self) -> Path:
        return Path(config.load(self.recipe).run.dir)

    @property
    def is_trained(self) -> bool:
        return progress(self.dir, config.load(self.recipe)).finished

    def _run(self, command: Sequence[str]) -> int:
        environment = {"OMP_NUM_THREADS": str(max(1, cores() // self.ranks_per_node))}
        with self.log.open("ab") as log:
            self.process = start(command, log, environment)
        return self.process.wait()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit at Slurm's signal, on the first node: the run stops at a checkpoint, this is handed in again."""
        from submitit.helpers import DelayedSubmission

        if self.process:
            stop(psutil.Process(self.process.pid))
        return DelayedSubmission(Job(self.recipe, self.log, self.ranks_per_node, self.scored_on))


def start(command: Sequence[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run that ignores the signal meant for submitit, which Slurm sends to every process of the job."""

    def ignore() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        preexec_fn=ignore,
    )


def stop(process: psutil.Process) -> None:
    """Ask the ranks of a run to stop at a checkpoint (not their launcher, which would soon kill them), and wait for it.

    A run that takes too long goes on from the checkpoint before.
    """
    ranks = process.children() if LAUNCHER in process.cmdline() else [process]
    for rank in ranks:
        rank.terminate()
    psutil.wait_procs([process], timeout=NOTICE * 2 / 3)  # Popen.wait would not see the end: it is what got interrupted


def launch(recipe: Path, ranks_per_node: int, hosts: Sequence[str], node: int, port: int) -> list[str]:
    """The command that starts this node's ranks of the run of `recipe`."""
    train = ["dualm", "train", str(recipe)]
    if len(hosts) * ranks_per_node == 1:
        return [sys.executable, "-m", *train]
    world = json.dumps({host: list(range(ranks_per_node)) for host in hosts})
    return [
        *(sys.executable, "-u", "-m", LAUNCHER),
        f"--world_info={base64.urlsafe_b64encode(world.encode()).decode()}",
        *(f"--node_rank={node}", f"--master_addr={hosts[0]}", f"--master_port={port}", "--module", *train),
    ]


def port(job_id: str) -> int:
    """The same on all nodes of a job, most likely another one for another job."""
    return 20_000 + int("".join(filter(str.isdigit, job_id))) % 20_000


# ---------------------------------------------------------------- handing in


def submit(executor: AutoExecutor, sweep: Sweep, tasks: Sequence[Task]) -> list[Any]:
    """Hand in every task that is neither finished nor queued, and say so; returns the jobs.

    Raises:
        UserError: Slurm refuses the jobs.
    """
    from submitit import LocalJob, SlurmJob

    asked, folder, cluster = sweep.slurm or Slurm(), sweep.dir / "slurm", executor.cluster
    job_class = {"slurm": SlurmJob, "local": LocalJob}[cluster]
    known = read_jobs(folder)
    queued = {name for name, job in known.items() if not job_class(folder, job).done()}
    todo = [task for task in tasks if task.status != "finished" and task.point.name not in queued]
    again = [task for task in todo if task.point.name in known]
    for task in again:
        print(f"{task.point.name}: job {known[task.point.name]} ended before the run did; the end of {task.log}:")
        print(task.last_words())
    made: list[Any] = []
    if todo:
        try:
            with executor.batch():
                for task in todo:
                    made.append(executor.submit(Job(task.recipe, task.log, asked.ranks_per_node, sweep.tasks)))
        except Exception as error:  # sbatch said no, in one of many ways
            raise UserError(f"--executor {cluster}: {' '.join(str(error).split())}") from None
    names = (task.point.name for task in todo)
    known |= {name: job.job_id for name, job in zip(names, made, strict=True)}
    files.write_text(folder / "jobs.json", json.dumps(known, indent=1))
    print(f"{len(made)} jobs handed in, {len(queued)} in the queue before; `dualm results {sweep.dir}` shows how far")
    return made


def executor_for(sweep: Sweep, at_once: int, cluster: str = "slurm") -> AutoExecutor:
    """submitit's executor for the jobs of `sweep`, `at_once` of them at a time; `cluster` as submitit knows it.

    Raises:
        UserError: there is no Slurm here.
        ModuleNotFoundError: there is no submitit.
    """
    from submitit import AutoExecutor

    asked, folder = sweep.slurm or Slurm(), sweep.dir / "slurm"
    folder.mkdir(exist_ok=True)
    try:
        executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=asked.max_timeouts)
    except RuntimeError:
        raise UserError(
            f"--executor {cluster}: no srun found, expected a machine that hands in jobs to Slurm"
        ) from None
    given = {key: value for key, value in asdict(asked).items() if value and key != "max_timeouts"}
    executor.update_parameters(
        name=sweep.dir.name,
        tasks_per_node=1,
        slurm_array_parallelism=at_once,
        slurm_signal_delay_s=NOTICE,
        slurm_srun_args=["--kill-on-bad-exit=1"],  # one node's failure ends the others, which would wait for it
        **{key if key in USUAL else f"slurm_{key}": value for key, value in given.items()},
    )
    return executor


def read_jobs(folder: Path) -> dict[str, str]:
    """The id of the last job of every run that was handed in, by name."""
    path = folder / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else {}
