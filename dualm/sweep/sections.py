"""The sections of a sweep file about everything around training: the request to Slurm, and the benchmarks for scoring."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dualm.errors import UserError
from dualm.sweep.isoflop import IsoFlop

if TYPE_CHECKING:
    from dualm.evaluation.benchmarks import Benchmarks


@dataclass
class Slurm:
    """What every run requests from Slurm: one Slurm task on each of `nodes`, which starts a rank for each GPU."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 1  # 0: one rank on CPU
    cpus_per_task: int | None = None  # of a node
    mem_gb: float | None = None  # of a node
    timeout_min: int = 720  # of one job; a run that needs more is requeued
    max_timeouts: int = 10  # how often it is requeued
    setup: list[str] = field(default_factory=list)  # shell lines before the run, such as `module load cuda`
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any other options of sbatch

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def ranks_per_node(self) -> int:
        return max(1, self.gpus_per_node)

    def check(self, path: Path) -> None:
        minima = {"nodes": 1, "gpus_per_node": 0, "timeout_min": 1, "max_timeouts": 0}
        for key, minimum in minima.items():
            if getattr(self, key) < minimum:
                raise UserError(f"{path}: slurm.{key}: got {getattr(self, key)}, expected at least {minimum}")


@dataclass
class Tasks:
    """The benchmarks on which every finished run is scored, as by `dualm evaluate`: `names` with their `modes`, or a suite."""

    names: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)  # of names; by default ar, prefix, mc
    data: str | None = None
    limit: int | None = None  # documents per benchmark or subtask
    draws: int = 32  # of names
    suite: str | None = None

    @property
    def skipped(self) -> bool:
        """A suite is an offer: without a folder for its files nothing is scored."""
        return self.suite is not None and self.data is None

    def settings(self) -> Benchmarks:
        """What `dualm evaluate` measures. Raises UserError for an invalid value."""
        from dualm.evaluation.benchmarks import Benchmarks, each_read
        from dualm.evaluation.suites import of_benchmarks
        from dualm.likelihood.modes import Scoring

        if self.suite:
            suite = of_benchmarks(self.suite)
            readings = suite.readings(list(suite.tasks))
        else:
            modes = self.modes or ("ar", "prefix", "mc")
            readings = each_read(self.names, tuple(Scoring(mode, draws=self.draws) for mode in modes))
        return Benchmarks(readings, Path(self.data) if self.data else None, self.limit)

    def check(self, path: Path) -> None:
        if not self.names and not self.suite:
            raise UserError(f"{path}: tasks.names: got none, expected names such as blimp or lambada, or tasks.suite")
        for key, default in {"names": [], "modes": [], "draws": 32}.items():
            if self.suite and (got := getattr(self, key)) != default:
                raise UserError(
                    f"{path}: tasks.{key}: got {got!r} beside tasks.suite, expected none: a suite decides it"
                )
        try:
            self.settings()
        except UserError as error:
            raise UserError(f"{path}: tasks: {error}") from None


Section = TypeVar("Section", IsoFlop, Slurm, Tasks)


def read(kind: type[Section], path: Path, name: str, found: Any) -> Section | None:
    """The section `name` of the file at `path`, or None if it is absent. Raises UserError for an unknown key or bad value."""
    if found is None:
        return None
    if not isinstance(found, dict):
        raise UserError(f"{path}: {name}: got {found!r}, expected a mapping")
    known = list(kind.__dataclass_fields__)
    for key in found:
        if key not in known:
            raise UserError(f"{path}: {name}: unknown key '{key}', expected one of {', '.join(known)}")
    try:
        section = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), found))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {name}.{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(section, kind)
    section.check(path)
    return section
