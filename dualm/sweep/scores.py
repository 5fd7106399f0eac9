"""The scores of a run on benchmarks: whether they are there, how to get them, and the columns they make.

They are found by what stands in the result files of `dualm evaluate`, whatever their names. The fields of `Scoring` stand with
each result; files of older versions hold them in a list `scorings`, once for each mode, or once for all modes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualm import runs
from dualm.errors import UserError
from dualm.evaluation.averages import mean_of, on_one_scale
from dualm.sweep.sections import Tasks

if TYPE_CHECKING:
    from dualm.evaluation.benchmarks import Benchmarks


class Found(NamedTuple):
    """A result of a file, and the settings that it was measured with."""

    result: Mapping[str, Any]
    settings: Mapping[str, Any]  # the fields of Scoring, limit, precision


def check(tasks: Tasks) -> None:
    """Raise what every scoring would: ModuleNotFoundError without lm-eval, UserError for missing or damaged files.

    lm-eval's own tasks are not checked. A suite without a folder is left out, which one line says.
    """
    from dualm.evaluation.documents import BENCHMARKS, documents

    if tasks.skipped:
        wanted = "give tasks.data=DIR; finished runs are scored then, too"
        print(f"tasks: suite '{tasks.suite}' is not scored, for want of its files: {wanted}", file=sys.stderr)
        return
    if find_spec("lm_eval") is None:
        raise ModuleNotFoundError(name="lm_eval")
    what = tasks.settings()
    try:
        _check_complete(tasks, what)
        for name in (name for name in what.names if name in BENCHMARKS):
            documents(name, what.data)
    except UserError as error:
        raise UserError(f"tasks: {error}") from None


def _check_complete(tasks: Tasks, what: Benchmarks) -> None:
    """Raises UserError where a suite would be scored in part: its average is over all of it."""
    from dualm.evaluation.documents import BENCHMARKS, given_folder

    if not tasks.suite:
        return
    data = given_folder(what.data, f"suite {tasks.suite!r}")
    if missing := [f"{name} ({BENCHMARKS[name].expected})" for name in what.names if not BENCHMARKS[name].find(data)]:
        raise UserError(
            f"{data}: nothing of {', '.join(missing)}, expected all of suite {tasks.suite!r}, or tasks.names"
        )


def command(tasks: Tasks, run: Path) -> list[str]:
    """The command line that scores `run`."""
    words = [sys.executable, "-m", "dualm", "evaluate", str(run)]
    if tasks.suite:
        words += ["--suite", tasks.suite]
    else:
        modes = [scoring.mode for scoring in tasks.settings().scorings]
        words += ["--tasks", ",".join(tasks.names), "--modes", ",".join(modes), "--draws", str(tasks.draws)]
    words += ["--data", tasks.data] if tasks.data else []
    return words + (["--limit", str(tasks.limit)] if tasks.limit else [])


def are_there(tasks: Tasks | None, run: Path) -> bool:
    """Whether the newest checkpoint of `run` has all of the scores; also if none are asked for, or can be had.

    The folder with the files of the benchmarks is not compared: it may have been moved.
    """
    if tasks is None or tasks.skipped:
        return True
    what, found = tasks.settings(), _found(run, runs.checkpoints(run)[-1].name)[0]
    return all(
        any(one.result["task"] == name and _same(one.settings, wanted) for one in found)
        for name, scorings in what.readings
        for wanted in ({**asdict(scoring), "limit": what.limit, "precision": "fp32"} for scoring in scorings)
    )


def columns(run: Path, step: int, averaged: Sequence[str] = ()) -> tuple[dict[str, float | None], list[str]]:
    """`task/<benchmark>/<mode>` and `..._se` of the checkpoint of `step`, and the names of files that could not be read.

    Where a benchmark was scored more than once in a mode, a score without guidance and other departures from the defaults
    counts first, then the one on most documents, then the one with most draws, then the latest. `task/average/<mode>` is
    the average of the normalised scores (0 to 100) of the benchmarks `averaged`, where all of them were scored in that mode.
    """
    found, unread = _found(run, f"step-{step:06d}")
    best = {(result["mode"], result["task"]): result for result, _ in sorted(found, key=_rank)}
    made: dict[str, float | None] = {}
    for (mode, task), result in best.items():
        name = f"task/{task}/{mode}"
        made |= {name: result["score"], f"{name}_se": result["standard_error"]}
    for mode in dict.fromkeys(mode for mode, _ in best):
        made |= _average(mode, [best.get((mode, task)) for task in averaged])
    return made, unread


def _average(mode: str, results: Sequence[Mapping[str, Any] | None]) -> dict[str, float | None]:
    """The columns of the average; none where a result or its chance level is missing, or there is but one."""
    scored = [result for result in results if result and result.get("chance") is not None]
    if len(scored) < max(2, len(results)):
        return {}
    errors = [math.nan if one["standard_error"] is None else one["standard_error"] for one in scored]
    parts = zip(scored, errors, strict=True)
    mean = mean_of(on_one_scale(one["score"], error, one["chance"]) for one, error in parts)
    name = f"task/average/{mode}"
    return {name: mean.mean, f"{name}_se": None if math.isnan(mean.standard_error) else mean.standard_error}


def _rank(found: Found) -> tuple[bool, int, int]:
    from dualm.likelihood.modes import Scoring

    result, settings = found
    defaults = {option.name: option.default for option in fields(Scoring) if option.name not in ("mode", "draws")}
    return _same(settings, {**defaults, "precision": "fp32"}), result["documents"], settings.get("draws", 0)


def _same(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether settings are those wanted. One that a file does not know did not exist when it was written."""
    return all(settings.get(name, value) == value for name, value in wanted.items())


def _found(run: Path, checkpoint: str) -> tuple[list[Found], list[str]]:
    """The results of benchmarks at a checkpoint, latest last, and the names of files that could not be read."""
    found: list[Found] = []
    unread = []
    for path in sorted((run / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        content = _read(path)
        if content is None:
            unread.append(path.name)
        elif Path(content["model"]).name == checkpoint:
            results = [result for result in content["results"] if "task" in result]
            found += [Found(result, _settings(content["settings"], result)) for result in results]
    return found, unread


def _settings(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    mode = result["mode"]
    listed = next((scoring for scoring in settings.get("scorings", ()) if scoring["mode"] == mode), {"mode": mode})
    return {**settings, **result.get("scoring", listed)}


def _read(path: Path) -> dict[str, Any] | None:
    """A results file of `dualm evaluate`; None if only a part of it is there."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
