"""`dualm evaluate`: the kinds of evaluation, and the steps that all of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from dualm.errors import UserError
from dualm.evaluation import answers, benchmarks, corpora, perplexity, result_files, suites
from dualm.evaluation.kind import Kind
from dualm.registry import Registry

KINDS: Registry[Kind[Any, Any]] = Registry(
    "kind of evaluation",
    {"tasks": benchmarks.KIND, "text": perplexity.KIND, "corpora": corpora.KIND, "answers": answers.KIND},
)
SUITE = "suite"  # the option that stands for a kind and its settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every kind, and those of suites."""
    for name, kind in KINDS.items():
        kind.add_arguments(parser.add_argument_group(f"with --{name}"))
    suites.add_arguments(parser.add_argument_group(f"with --{SUITE}"))


def evaluate(
    arguments: argparse.Namespace, say: Callable[[str], None], note: Callable[[str], None]
) -> tuple[RenderableType, Path | None]:
    """Measure what the command line asks for: a table, and the path of the result files without their suffix.

    The files are written again after every result. Without `--out`, a model outside a run directory gets none, and the path
    is None. `say` is called with what is being measured, `note` with what a suite lacks.

    Raises:
        UserError: an invalid value, or an input or a model that cannot be read; before anything is measured.
    """
    from dualm.language_model import LanguageModel

    kind, what = chosen(arguments, note)
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
            rows, summary = [kind.row(one) for one in results], kind.summary(results, what) if kind.summary else {}
            result_files.write(folder, name, about, rows, summary)
    return kind.table(results, str(model.folder), what), folder / name if folder else None


def chosen(arguments: argparse.Namespace, note: Callable[[str], None]) -> tuple[Kind[Any, Any], Any]:
    """The kind whose option is given, or that of the suite, with its settings. Raises UserError if none is, or several."""
    options = (*KINDS, SUITE)
    given = [name for name in options if getattr(arguments, name)]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise UserError(f"dualm evaluate: got {got}, expected one of {', '.join(f'--{name}' for name in options)}")
    if given == [SUITE]:
        return suites.asked(arguments, note)
    kind = KINDS[given[0]]
    return kind, kind.settings(arguments)


def folder_in(run: Path) -> Path | None:
    """Where the results of a run go. None: `run` is a model outside a run directory."""
    return run / "evaluation" if (run / "recipe.yaml").is_file() else None
