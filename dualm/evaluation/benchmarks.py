"""`dualm evaluate RUN --tasks NAMES`: the score of a model on benchmarks, with its standard error and the chance level."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from dualm.evaluation import averages
from dualm.evaluation.documents import normalised
from dualm.evaluation.kind import Kind, check_at_least, label, names, scorings
from dualm.evaluation.tables import grouped, reading_label, result_table, shown

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from dualm.language_model import LanguageModel
    from dualm.likelihood.modes import Scoring

DEFAULT_MODES = ("ar", "prefix", "pll", "mc")


@dataclass(frozen=True)
class Benchmarks:
    """Which benchmarks are scored, and how. Raises UserError for a limit below 1."""

    readings: tuple[tuple[str, tuple[Scoring, ...]], ...]  # each benchmark with the ways to read it
    data: Path | None = None  # the folder with the files of local benchmarks, at any depth
    limit: int | None = None  # documents of each benchmark or subtask
    batch: int = field(default=8, compare=False)

    def __post_init__(self) -> None:
        check_at_least(1, "--limit", self.limit)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.readings)

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """Every way to read one of the benchmarks, each once."""
        return tuple(dict.fromkeys(scoring for _, scorings in self.readings for scoring in scorings))

    @property
    def label(self) -> tuple[str, ...]:
        return label(self.names, tuple(dict.fromkeys(one.mode for one in self.scorings)), limit=self.limit)


def each_read(names: Sequence[str], scorings: tuple[Scoring, ...]) -> tuple[tuple[str, tuple[Scoring, ...]], ...]:
    """The `readings` of benchmarks that are all read in the same ways."""
    return tuple((name, scorings) for name in names)


@dataclass(frozen=True)
class BenchmarkResult:
    task: str  # the name of the benchmark, or of its subtask
    scoring: Scoring
    metric: str
    score: float
    standard_error: float  # over documents; nan where there is only one
    chance: float | None  # None: the metric is not an accuracy
    documents: int
    seconds: float = math.nan  # of the whole benchmark; its subtasks are read together
    subtasks: tuple[BenchmarkResult, ...] = ()
    each: tuple[float, ...] = field(
        default=(), repr=False
    )  # the metric of each document, in their order; () with subtasks

    @property
    def mode(self) -> str:
        return self.scoring.mode

    @property
    def normalised(self) -> float | None:
        return None if self.chance is None else normalised(self.score, self.chance)


def add_arguments(group: argparse._ArgumentGroup) -> None:
    modes = ",".join(DEFAULT_MODES)
    group.add_argument(
        "--tasks",
        type=names,
        metavar="NAMES",
        help=f"benchmarks such as blimp,lambada, or names of lm-eval's tasks (default modes: {modes})",
    )
    group.add_argument("--data", type=Path, metavar="DIR", help="where the files of the benchmarks are, at any depth")


def settings(arguments: argparse.Namespace) -> Benchmarks:
    asked = each_read(arguments.tasks, scorings(arguments, DEFAULT_MODES))
    return Benchmarks(asked, arguments.data, arguments.limit, arguments.batch)


def read(what: Benchmarks) -> dict[str, dict[str, Task]]:
    """lm-eval's tasks for each benchmark. Raises UserError as `load_tasks` does."""
    from dualm.evaluation.harness import load_tasks

    return load_tasks(what.names, what.data)


def run(
    model: LanguageModel, what: Benchmarks, tasks: dict[str, dict[str, Task]], say: Callable[[str], None]
) -> Iterator[BenchmarkResult]:
    from dualm.evaluation.harness import evaluate_benchmark
    from dualm.evaluation.lm_eval import DualLM

    for name, ways in what.readings:
        for scoring in ways:
            say(f"{name}, mode {scoring.mode}")
            yield evaluate_benchmark(DualLM(model, scoring, what.batch), name, tasks[name], what.limit)


# ---------------------------------------------------------------- what is written and shown


def row(result: BenchmarkResult) -> dict[str, Any]:
    """Scores, errors and chance as fractions, `normalised` from 0 to 100."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    nested = {"scoring": asdict(values.pop("scoring")), "subtasks": [row(part) for part in values.pop("subtasks")]}
    del values["each"]
    return {"task": values.pop("task"), "mode": result.mode, **values, "normalised": result.normalised, **nested}


def table(results: Sequence[BenchmarkResult], title: str, what: Benchmarks) -> RenderableType:
    """Scores in percent ± their standard error, chance, and the score normalised to 0 at chance and 100 at perfection."""
    made = result_table(title, ("benchmark", "mode", "metric"), ("score ± s.e.", "chance", "norm.", "docs", "sec"))
    for group in grouped(results, lambda result: result.task):
        for name, result in group:
            scale = 1 if result.chance is None else 100
            made.add_row(
                name,
                reading_label(result.scoring),
                result.metric,
                f"{result.score * scale:.1f} ± {shown(result.standard_error * scale, 1):>3}",
                shown(result.chance, 1, 100),
                shown(result.normalised, 1),
                f"{result.documents:,}",
                f"{result.seconds:.1f}",
            )
        made.add_section()
    means = dict.fromkeys(result.task for result in results if result.subtasks)
    notes = ["norm.: 0 at chance, 100 at perfection.", *(f"{name}: mean over its subtasks." for name in means)]
    return Group(made, Text(" ".join(notes), "dim"), *averages.tables(results, what))


KIND = Kind(add_arguments, settings, read, run, row, table, averages.summary)
