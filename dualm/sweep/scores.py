"""The scores of a run on tasks: whether they are there, how to get them, and the columns they make."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dualm.errors import UserError
from dualm.evaluation.evaluate import Evaluation
from dualm.sweep.sections import Tasks


def check(tasks: Tasks) -> None:
    """Raise what every scoring would: ModuleNotFoundError without lm-eval, UserError for missing or damaged files.

    The library's own tasks are not looked at.
    """
    from dualm.evaluation.documents import BENCHMARKS, documents

    if find_spec("lm_eval") is None:
        raise ModuleNotFoundError(name="lm_eval")
    for name in (name for name in tasks.names if name in BENCHMARKS):
        try:
            documents(name, Path(tasks.data) if tasks.data else None)
        except UserError as error:
            raise UserError(f"tasks: {error}") from None


def command(tasks: Tasks, run: Path) -> list[str]:
    """The command line that scores `run`."""
    words = [sys.executable, "-m", "dualm", "evaluate", str(run), "--tasks", ",".join(tasks.names)]
    words += ["--modes", ",".join(tasks.modes), "--draws", str(tasks.draws)]
    words += ["--data", tasks.data] if tasks.data else []
    return words + (["--limit", str(tasks.limit)] if tasks.limit else [])


def are_there(tasks: Tasks | None, run: Path) -> bool:
    """Whether `run` has all of the scores; also if none are asked for."""
    if tasks is None:
        return True
    what = Evaluation(run, tuple(tasks.names), modes=tuple(tasks.modes), limit=tasks.limit)
    content = _read(run / "evaluation" / f"{what.name}.json") or {"results": [], "settings": {}}
    found = {(result["task"], result["mode"]) for result in content["results"]}
    same = content["settings"].get("draws") == tasks.draws
    return same and found >= {(name, mode) for name in tasks.names for mode in tasks.modes}


def columns(run: Path, step: int) -> tuple[dict[str, float | None], list[str]]:
    """`task/<task>/<mode>` and `..._se` of the checkpoint of `step`, and the names of files that could not be read.

    Where a task was scored more than once, the score on most documents counts.
    """
    results: list[dict[str, Any]] = []
    unread = []
    for path in sorted((run / "evaluation").glob("*.json")):
        content = _read(path)
        if content is None:
            unread.append(path.name)
        elif Path(content["model"]).name == f"step-{step:06d}":
            results += [result for result in content["results"] if "task" in result]
    made: dict[str, float | None] = {}
    for result in sorted(results, key=lambda result: result["documents"]):
        name = f"task/{result['task']}/{result['mode']}"
        made |= {name: result["score"], f"{name}_se": result["standard_error"]}
    return made, unread


def _read(path: Path) -> dict[str, Any] | None:
    """A results file of `dualm evaluate`; None if there is none, or only a part of it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
