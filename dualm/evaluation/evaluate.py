"""`dualm evaluate`: the kinds of evaluation, and the steps that all of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from dualm.errors import UserError
from dualm.evaluation import answers, benchmarks, perplexity, result_files
from dualm.evaluation.kind import Kind
from dualm.registry import Registry

KINDS: Registry[Kind[Any, Any]] = Registry(
    "kind of evaluation", {"tasks": benchmarks.KIND, "text": perplexity.KIND, "answers": answers.KIND}
)


def evaluate(arguments: argparse.Namespace, say: Callable[[str], None]) -> tuple[RenderableType, Path | None]:
    """Measure what the command line asks for: a table, and the path of the result files without their suffix.

    The files are written again after every result. Without `--out`, a model outside a run directory gets none, and the path
    is None. `say` is called with what is being measured.

    Raises:
        UserError: an invalid value, or an input or a model that cannot be read; before anything is measured.
    """
    from dualm.language_model import LanguageModel

    kind = chosen(arguments)
    what = kind.settings(arguments)
    inputs = kind.read(what)
    model = LanguageModel.load(arguments.run, arguments.device, arguments.precision)
    settings = {"precision": arguments.precision, **result_files.distinguishing(what)}
    about = {"model": str(model.folder.resolve()), "settings": settings}
    folder, name = arguments.out or folder_in(Path(arguments.run)), result_files.file_name(what.label, about)
    if folder:
        result_files.make_folder(folder)
    results = []
    for result in kind.run(model, what, inputs, say):
        results.append(result)
        if folder:
            result_files.write(folder, name, about, [kind.row(one) for one in results])
    return kind.table(results, str(model.folder), what), folder / name if folder else None


def chosen(arguments: argparse.Namespace) -> Kind[Any, Any]:
    """The kind whose option is given. Raises UserError if none is, or more than one."""
    given = [name for name in KINDS if getattr(arguments, name)]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise UserError(f"dualm evaluate: got {got}, expected one of {', '.join(f'--{name}' for name in KINDS)}")
    return KINDS[given[0]]


def folder_in(run: Path) -> Path | None:
    """Where the results of a run go. None: `run` is a model outside a run directory."""
    return run / "evaluation" if (run / "recipe.yaml").is_file() else None
