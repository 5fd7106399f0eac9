"""The scores of a run on benchmarks: whether they are there, how to get them, and the columns they make.

They are found by what stands in the result files of `dualm evaluate`, whatever their names. Files of older versions hold the
fields of `Scoring` once for all modes; now they stand in the list `scorings`, once for each mode.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dualm import runs
from dualm.errors import UserError
from dualm.sweep.sections import Tasks


class Found(NamedTuple):
    """A result of a file, and the settings that it was measured with."""

    result: Mapping[str, Any]
    settings: Mapping[str, Any]  # the fields of Scoring, limit, precision


def check(tasks: Tasks) -> None:
    """Raise what every scoring would: ModuleNotFoundError without lm-eval, UserError for missing or damaged files.

    lm-eval's own tasks are not checked.
    """
    from dualm.evaluation.documents import BENCHMARKS, documents

    if find_spec("lm_eval") is None:
        raise ModuleNotFoundError(name="lm_eval")
    for name in (name for name in tasks.names if name in BENCHMARKS):
        try:
            documents(name, tasks.settings().data)
        except UserError as error:
            raise UserError(f"tasks: {error}") from None


def command(tasks: Tasks, run: Path) -> list[str]:
    """The command line that scores `run`."""
    words = [sys.executable, "-m", "dualm", "evaluate", str(run), "--tasks", ",".join(tasks.names)]
    words += ["--modes", ",".join(tasks.modes), "--draws", str(tasks.draws)]
    words += ["--data", tasks.data] if tasks.data else []
    return words + (["--limit", str(tasks.limit)] if tasks.limit else [])


def are_there(tasks: Tasks | None, run: Path) -> bool:
    """Whether the newest checkpoint of `run` has all of the scores; also if none are asked for.

    The folder with the files of the benchmarks is not compared: it may have been moved.
    """
    if tasks is None:
        return True
    what, found = tasks.settings(), _found(run, runs.checkpoints(run)[-1].name)[0]
    return all(
        any(one.result["task"] == name and _same(one.settings, wanted) for one in found)
        for name in what.names
        for wanted in ({**asdict(scoring), "limit": what.limit, "precision": "fp32"} for scoring in what.scorings)
    )


def columns(run: Path, step: int) -> tuple[dict[str, float | None], list[str]]:
    """`task/<benchmark>/<mode>` and `..._se` of the checkpoint of `step`, and the names of files that could not be read.

    Where a benchmark was scored more than once in a mode, a score without guidance and other departures from the defaults
    counts first, then the one on most documents, then the one with most draws, then the latest.
    """
    found, unread = _found(run, f"step-{step:06d}")
    made: dict[str, float | None] = {}
    for result, _ in sorted(found, key=_rank):
        name = f"task/{result['task']}/{result['mode']}"
        made |= {name: result["score"], f"{name}_se": result["standard_error"]}
    return made, unread


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
            found += [Found(result, _settings(content["settings"], result["mode"])) for result in results]
    return found, unread


def _settings(settings: Mapping[str, Any], mode: str) -> dict[str, Any]:
    own = next((scoring for scoring in settings.get("scorings", ()) if scoring["mode"] == mode), {"mode": mode})
    return {**settings, **own}


def _read(path: Path) -> dict[str, Any] | None:
    """A results file of `dualm evaluate`; None if only a part of it is there."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
