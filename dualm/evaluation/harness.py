"""Benchmarks scored by lm-eval: a model in a mode × a benchmark -> a score, its standard error and the chance level.

lm-eval gets the documents of local benchmarks in memory, so it asks no network for them. A benchmark is a "task" to
lm-eval; a benchmark with subtasks is several.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from dualm.errors import UserError
from dualm.evaluation.benchmarks import BenchmarkResult
from dualm.evaluation.documents import BENCHMARKS, Benchmark, Document, documents
from dualm.evaluation.lm_eval import DualLM
from dualm.likelihood.modes import Scoring

LIBRARY = "lm_eval:"  # before a name: lm-eval's own task, even where a local benchmark has the same name
ACCURACIES = ("acc_norm", "acc")
BOOTSTRAP = 1000  # draws, for standard errors that lm-eval has no formula for


def load_tasks(names: Sequence[str], data: Path | None) -> dict[str, dict[str, Task]]:
    """The lm-eval tasks that each name means: one, or one for each subtask.

    Raises:
        UserError: an unknown name, missing or damaged files, a task of lm-eval whose data cannot be loaded.
    """
    loaded: dict[str, dict[str, Task]] = {}
    manager: TaskManager | None = None
    for name in names:
        if name in BENCHMARKS:
            loaded[name] = local_tasks(name, data)
            continue
        manager = manager or TaskManager()  # reads thousands of files: only where it is needed
        loaded[name] = _library_tasks(name.removeprefix(LIBRARY), manager)
    return loaded


def local_tasks(name: str, data: Path | None) -> dict[str, Task]:
    """One of BENCHMARKS as tasks of lm-eval, by name of the subtask ("blimp/passive_1") or of the benchmark ("piqa")."""
    with quiet():
        made = {
            f"{name}/{subtask}" if subtask else name: documents_of
            for subtask, documents_of in documents(name, data).items()
        }
        return {full: _configured(full, BENCHMARKS[name], found) for full, found in made.items()}


def _configured(name: str, benchmark: Benchmark, found: list[Document]) -> Task:
    one_choice = all(len(document["choices"]) == 1 for document in found)
    scoring: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
    if one_choice:
        scoring = {
            "output_type": "loglikelihood",
            "doc_to_target": lambda document: benchmark.delimiter + document["choices"][0],
        }
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list([*map(dict, found)])},
            "test_split": "test",
            "doc_to_text": "context",
            "target_delimiter": benchmark.delimiter,
            "num_fewshot": 0,
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in dict.fromkeys(["acc", benchmark.metric])
            ],
            "metadata": {"version": 1.0},
            **scoring,
        }
    )


def _library_tasks(name: str, manager: TaskManager) -> dict[str, Task]:
    if name not in manager.all_tasks:
        raise UserError(
            f"--tasks: got {name!r}, expected {', '.join(BENCHMARKS)} or the name of one of lm-eval's tasks"
        )
    try:
        with quiet():
            tasks = manager.load([name])["tasks"]
    except Exception as error:  # whatever fails in a download, or in a task's own code
        raise UserError(f"--tasks: lm-eval cannot load {name!r}: {type(error).__name__}: {error}") from None
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=task.get_config("num_fewshot") or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return tasks


def evaluate_benchmark(model: DualLM, name: str, tasks: dict[str, Task], limit: int | None = None) -> BenchmarkResult:
    """Score the first `limit` documents (None: all) of every subtask.

    The score of a benchmark with subtasks is their unweighted mean. They share no document, so its standard error takes
    theirs as independent.
    """
    start = time.perf_counter()
    with quiet():
        found: Any = evaluate(model, {"tasks": tasks}, limit=limit, log_samples=True, bootstrap_iters=BOOTSTRAP)
    seconds = time.perf_counter() - start
    results = [
        _result(key, task, found["results"][key], found["samples"][key], name, model.scoring)
        for key, task in tasks.items()
    ]
    return _mean(name, results, seconds)


def _result(
    key: str, task: Task, values: dict[str, Any], samples: Sequence[dict[str, Any]], name: str, scoring: Scoring
) -> BenchmarkResult:
    available = [metric.split(",")[0] for metric in values if "," in metric and "_stderr" not in metric]
    wanted = [BENCHMARKS[name].metric] if name in BENCHMARKS else [*ACCURACIES, *available]
    metric = next(metric for metric in wanted if metric in available)
    (score,) = (value for full, value in values.items() if full.split(",")[0] == metric)
    (error,) = (value for full, value in values.items() if full.split(",")[0] == f"{metric}_stderr")
    choices = Counter(instance.doc_id for instance in task.instances)
    chance = None
    if metric in ACCURACIES:
        several = task.OUTPUT_TYPE == "multiple_choice"
        chance = sum(1 / n for n in choices.values()) / len(choices) if several else 0.0
    spread = error if isinstance(error, float) else math.nan
    of_documents = {sample["doc_id"]: sample[metric] for sample in samples if metric in sample["metrics"]}
    each = tuple(value for _, value in sorted(of_documents.items()))
    return BenchmarkResult(key, scoring, metric, float(score), spread, chance, len(choices), each=each)


def _mean(name: str, results: Sequence[BenchmarkResult], seconds: float) -> BenchmarkResult:
    n, first = len(results), results[0]
    chances = [result.chance for result in results if result.chance is not None]
    return BenchmarkResult(
        name,
        first.scoring,
        first.metric,
        sum(result.score for result in results) / n,
        math.sqrt(sum(result.standard_error**2 for result in results)) / n,
        sum(chances) / n if chances else None,
        sum(result.documents for result in results),
        seconds,
        tuple(results) if n > 1 else (),
        first.each if n == 1 else (),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's progress bars and warnings, all of which go to stderr; exceptions pass."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
