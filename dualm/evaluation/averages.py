"""Several benchmarks on one scale: the average of their normalised scores, and paired differences between two readings.

A score s with chance level c is normalised to 100 (s - c) / (1 - c): 0 at chance, 100 at perfection. The average over K
benchmarks is the unweighted mean of these (Samuel and Charpentier 2025, section 4). Documents are the independent units and
no two benchmarks share one, so with standard errors e of the scores that of the average is

    sqrt(sum over benchmarks of (100 e / (1 - c))^2) / K.

Two readings of one model score the same documents, so their difference is taken document by document: its standard error is
that of a mean of differences, which is smaller than if the readings were independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from dualm.evaluation.documents import normalised
from dualm.evaluation.tables import reading_label, result_table, shown

if TYPE_CHECKING:
    from dualm.evaluation.benchmarks import BenchmarkResult, Benchmarks
    from dualm.likelihood.modes import Scoring

COMPARED = (("prefix", "ar"), ("pll_mixed", "pll"))  # readings of one objective, compared document by document
AVERAGE = "average"


@dataclass(frozen=True)
class Estimate:
    mean: float
    standard_error: float  # nan where it is not known


def on_one_scale(score: float, standard_error: float, chance: float) -> Estimate:
    """A score in [0, 1] and its standard error, normalised."""
    return Estimate(normalised(score, chance), 100 * standard_error / (1 - chance))


def mean_of(estimates: Iterable[Estimate]) -> Estimate:
    """The unweighted mean of independent estimates, at least one."""
    found = list(estimates)
    spread = math.sqrt(sum(each.standard_error**2 for each in found))
    return Estimate(sum(each.mean for each in found) / len(found), spread / len(found))


def paired_difference(one: Sequence[float], other: Sequence[float], chance: float) -> Estimate:
    """one - other on the normalised scale, from values `[documents]` of the same documents in the same order."""
    differences = 100 * (np.asarray(one, dtype=float) - np.asarray(other, dtype=float)) / (1 - chance)
    n = len(differences)
    spread = float(differences.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Estimate(float(differences.mean()), spread)


@dataclass(frozen=True)
class Average:
    """The mean of the normalised scores of benchmarks that were all read in one way."""

    scoring: Scoring
    tasks: tuple[str, ...]
    estimate: Estimate


@dataclass(frozen=True)
class Difference:
    """How much better one reading is than another on the same documents, in points of the normalised score."""

    task: str  # or AVERAGE
    modes: tuple[str, str]  # the first minus the second
    estimate: Estimate


def averages(results: Sequence[BenchmarkResult], what: Benchmarks) -> list[Average]:
    """One for each way to read that has a score on every benchmark, if there are two or more with a chance level."""
    made = []
    for scoring in what.scorings:
        found = {result.task: result for result in results if result.scoring == scoring}
        scored = [result for result in found.values() if result.chance is not None]
        if set(found) == set(what.names) and len(scored) > 1:
            parts = (
                on_one_scale(one.score, one.standard_error, one.chance) for one in scored if one.chance is not None
            )
            made.append(Average(scoring, tuple(one.task for one in scored), mean_of(parts)))
    return made


def differences(results: Sequence[BenchmarkResult], what: Benchmarks) -> list[Difference]:
    """Of each benchmark that was read in both modes of a pair of COMPARED, and of their average over all benchmarks."""
    found = {(result.task, result.mode): result for result in results}
    made = []
    for modes in COMPARED:
        pairs = [(name, *(found.get((name, mode)) for mode in modes)) for name in what.names]
        of_tasks = [
            Difference(name, modes, difference)
            for name, one, other in pairs
            if one and other and (difference := _difference(one, other))
        ]
        made += of_tasks
        if len(of_tasks) > 1 and len(of_tasks) == len(what.names):
            made.append(Difference(AVERAGE, modes, mean_of(each.estimate for each in of_tasks)))
    return made


def _difference(one: BenchmarkResult, other: BenchmarkResult) -> Estimate | None:
    """None where the metric is no accuracy."""
    if one.chance is None:
        return None
    parts = zip(one.subtasks or (one,), other.subtasks or (other,), strict=True)
    return mean_of(paired_difference(a.each, b.each, one.chance) for a, b in parts)


def summary(results: Sequence[BenchmarkResult], what: Benchmarks) -> dict[str, Any]:
    """`averages` and `differences`, in points from 0 (chance) to 100."""
    return {
        "averages": [
            {"mode": one.scoring.mode, **asdict(one.estimate), "tasks": one.tasks, "scoring": asdict(one.scoring)}
            for one in averages(results, what)
        ],
        "differences": [
            {"task": one.task, "modes": one.modes, **asdict(one.estimate)} for one in differences(results, what)
        ],
    }


def tables(results: Sequence[BenchmarkResult], what: Benchmarks) -> Iterator[RenderableType]:
    """The averages and the differences, where there are any."""
    if found := averages(results, what):
        made = result_table("\nAverage of the normalised scores", ("mode",), ("norm. ± s.e.", "benchmarks"))
        for one in found:
            made.add_row(reading_label(one.scoring), _shown(one.estimate), str(len(one.tasks)))
        yield made
        yield Text(f"unweighted mean over {', '.join(found[0].tasks)}", "dim")
    if compared := differences(results, what):
        pairs = list(dict.fromkeys(one.modes for one in compared))
        headings = [" - ".join(pair) for pair in pairs]
        made = result_table("\nDifference of normalised scores on the same documents ± s.e.", ("benchmark",), headings)
        cells = {(one.task, one.modes): _shown(one.estimate) for one in compared}
        for task in dict.fromkeys(one.task for one in compared):
            made.add_row(task, *(cells.get((task, pair), "-") for pair in pairs))
        yield made


def _shown(estimate: Estimate) -> str:
    return f"{estimate.mean:.1f} ± {shown(estimate.standard_error, 1):>3}"
