"""The Slurm executor: every unfinished run is a job of one array, submitted through submitit. No process keeps watching.

    dualm sweep small.yaml --executor slurm     submits every run that is neither finished nor queued; may be repeated
    dualm results runs/small                    the table of the runs so far

A job has one Slurm task on each of its nodes. That task starts one rank per GPU of the node, through DeepSpeed's
launcher if there is more than one rank in all. Shortly before Slurm ends a job (preemption or time limit) it sends a
signal: the run writes a checkpoint, the job goes back into the queue, and its command later resumes from the checkpoint.
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
from dualm.sweep.local import ATTEMPTS, Run, cores
from dualm.sweep.sections import Slurm, Tasks

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission

LAUNCHER = "deepspeed.launcher.launch"  # starts the ranks of one node; needs neither ssh nor a file of hosts
NOTICE = 180  # seconds between Slurm's signal and the end of the job
SHARED = ("nodes", "cpus_per_task", "gpus_per_node", "mem_gb", "timeout_min")  # submitit's names on every cluster


@dataclass
class Job:
    """What every node of a run's job does. It is pickled when it is submitted."""

    recipe: Path
    log: Path
    ranks_per_node: int
    scored_on: Tasks | None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __call__(self) -> None:
        """Train the run to its end and score it. A failure is retried once, unless the job has several nodes.

        Raises:
            RuntimeError: the run failed; the end of its log shows the cause.
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
        """Called by submitit on the first node at Slurm's signal: the run stops at a checkpoint, the job is submitted again."""
        from submitit.helpers import DelayedSubmission

        if self.process:
            stop(psutil.Process(self.process.pid))
        return DelayedSubmission(Job(self.recipe, self.log, self.ranks_per_node, self.scored_on))


def start(command: Sequence[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that ignores the signal for submitit, which Slurm sends to every process of the job."""

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
    """Ask the ranks of a run to stop at a checkpoint, and wait for it. Their launcher is not asked: it would kill them.

    A run that takes too long resumes later from its previous checkpoint.
    """
    ranks = process.children() if LAUNCHER in process.cmdline() else [process]
    for rank in ranks:
        rank.terminate()
    psutil.wait_procs([process], timeout=NOTICE * 2 / 3)  # Popen.wait would not see the end: the signal interrupted it


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
    """A port that is the same on all nodes of a job, and very likely another one for another job."""
    return 20_000 + int("".join(filter(str.isdigit, job_id))) % 20_000


# ---------------------------------------------------------------- submission


def submit(executor: AutoExecutor, sweep: Sweep, runs: Sequence[Run]) -> list[Any]:
    """Submit a job for every run that is neither finished nor queued, and report it; returns the jobs.

    Raises:
        UserError: Slurm refuses the jobs.
    """
    from submitit import LocalJob, SlurmJob

    folder = sweep.dir / "slurm"
    job_class = {"slurm": SlurmJob, "local": LocalJob}[executor.cluster]
    known = read_jobs(folder)
    queued = {name for name, job in known.items() if not job_class(folder, job).done()}
    todo = [run for run in runs if run.status != "finished" and run.point.name not in queued]
    for run in (run for run in todo if run.point.name in known):
        print(f"{run.point.name}: job {known[run.point.name]} ended before the run did; the end of {run.log}:")
        print(run.end_of_log())
    jobs = _submit_array(executor, sweep, todo) if todo else []
    names = (run.point.name for run in todo)
    known |= {name: job.job_id for name, job in zip(names, jobs, strict=True)}
    files.write_json(folder / "jobs.json", known)
    print(f"{len(jobs)} jobs submitted, {len(queued)} already in the queue; `dualm results {sweep.dir}` shows progress")
    return jobs


def _submit_array(executor: AutoExecutor, sweep: Sweep, runs: Sequence[Run]) -> list[Any]:
    ranks_per_node = (sweep.slurm or Slurm()).ranks_per_node
    try:
        with executor.batch():
            return [executor.submit(Job(run.recipe, run.log, ranks_per_node, sweep.tasks)) for run in runs]
    except Exception as error:  # sbatch refuses in many ways
        raise UserError(f"--executor {executor.cluster}: {' '.join(str(error).split())}") from None


def executor_for(sweep: Sweep, at_once: int, cluster: str = "slurm") -> AutoExecutor:
    """submitit's executor for the jobs of `sweep`, `at_once` of them at a time; `cluster` is submitit's name of it.

    Raises:
        UserError: this machine has no Slurm.
        ModuleNotFoundError: submitit is not installed.
    """
    from submitit import AutoExecutor

    request, folder = sweep.slurm or Slurm(), sweep.dir / "slurm"
    folder.mkdir(exist_ok=True)
    try:
        executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=request.max_timeouts)
    except RuntimeError:
        raise UserError(
            f"--executor {cluster}: no srun found, expected a machine that can submit jobs to Slurm"
        ) from None
    given = {key: value for key, value in asdict(request).items() if value and key != "max_timeouts"}
    executor.update_parameters(
        name=sweep.dir.name,
        tasks_per_node=1,
        slurm_array_parallelism=at_once,
        slurm_signal_delay_s=NOTICE,
        slurm_srun_args=["--kill-on-bad-exit=1"],  # if one node fails the others end too, and do not wait for it
        **{key if key in SHARED else f"slurm_{key}": value for key, value in given.items()},
    )
    return executor


def read_jobs(folder: Path) -> dict[str, str]:
    """The id of the last job of every run that was submitted, by the name of the run."""
    path = folder / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else {}
