"""`dualm evaluate RUN --suite NAME --data DIR`: what a paper measured, with its settings, from the user's files.

A suite is a record of SUITES: the benchmarks or data sets of a publication and how each of them is read. What DIR has not is
named, the rest is measured. docs/fidelity.md says where the settings were read and what differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from dualm.errors import UserError
from dualm.evaluation import benchmarks, corpora
from dualm.evaluation.benchmarks import Benchmarks
from dualm.evaluation.corpora import CORPORA, Corpora
from dualm.evaluation.documents import BENCHMARKS, given_folder
from dualm.evaluation.kind import Kind
from dualm.evaluation.tables import reading_label, result_table
from dualm.registry import Registry

if TYPE_CHECKING:
    from dualm.likelihood.modes import Scoring

Way = dict[str, Any]  # fields of a Scoring: torch is not needed to name one


@dataclass(frozen=True)
class Suite:
    """What is read, and in which ways.

    `tasks` names benchmarks; `length` says that they are data sets, read in windows of at most so many tokens.
    """

    about: str
    tasks: Mapping[str, tuple[Way, ...]]
    length: int | None = None

    def expected(self, name: str) -> str:
        """The files of one of its benchmarks or data sets, in words."""
        return (CORPORA if self.length else BENCHMARKS)[name].expected

    def present(self, data: Path) -> list[str]:
        """Those whose files are below `data`. Raises UserError where several fit."""
        found = CORPORA if self.length else BENCHMARKS
        return [name for name in self.tasks if found[name].find(data)]

    def readings(self, names: Sequence[str], seed: int = 0) -> tuple[tuple[str, tuple[Scoring, ...]], ...]:
        from dualm.likelihood.modes import Scoring

        return tuple((name, tuple(Scoring(seed=seed, **way) for way in self.tasks[name])) for name in names)


def _alike(names: Sequence[str], *ways: Way) -> dict[str, tuple[Way, ...]]:
    return dict.fromkeys(names, ways)


SUITES = Registry(
    "--suite",
    {
        "dual": Suite(
            "nine zero-shot tasks (Samuel and Charpentier 2025); prompts of lm-eval, their average from 0 to 100",
            _alike(
                (
                    "arc_easy",
                    "arc_challenge",
                    "blimp",
                    "commonsense_qa",
                    "hellaswag",
                    "mmlu",
                    "openbookqa",
                    "piqa",
                    "social_iqa",
                ),
                *({"mode": mode} for mode in ("ar", "prefix", "pll", "pll_mixed")),
            ),
        ),
        "smdm": Suite(
            "eight zero-shot tasks, each read as for the 1.1B model of 3.3e21 FLOPs (Nie et al. 2025, eval_mdm.sh)",
            {
                # accuracy on LAMBADA: the word that decoding by confidence gives, whatever their nll_type
                **_alike(["lambada_standard"], {"mode": "exact", "guidance": 1.1}),
                **_alike(["openbookqa", "boolq"], {"mode": "chain", "guidance": 1.6}),
                **_alike(["piqa"], {"mode": "chain", "guidance": 0.6}),
                **_alike(["arc_easy", "social_iqa"], {"mode": "mc", "guidance": 0.6, "draws": 1024}),
                **_alike(["race", "hellaswag"], {"mode": "mc", "guidance": 0.7, "draws": 1024}),
            },
        ),
        "mdlm-zeroshot": Suite(
            "perplexity of seven data sets in windows of 1,024 tokens (Sahoo et al. 2024)",
            _alike(
                ("ptb", "wikitext", "lm1b", "lambada", "ag_news", "pubmed", "arxiv"),
                {"mode": "ar"},
                {"mode": "mc", "draws": 1},
            ),
            length=1024,
        ),
    },
)


def of_benchmarks(name: str) -> Suite:
    """The suite `name`. Raises UserError if there is none, or it reads data sets."""
    suite, known = SUITES.choose(name), [one for one, each in SUITES.items() if each.length is None]
    if name not in known:
        raise UserError(f"--suite: got {name!r}, which is perplexities, expected {' or '.join(known)}")
    return suite


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--suite", metavar="NAME", help=f"all that a paper measured, from --data DIR: {', '.join(SUITES)}"
    )
    group.add_argument(
        "--list-suites", action=_List, nargs=0, help="show the suites and the files they look for, and exit"
    )


def asked(arguments: argparse.Namespace, note: Callable[[str], None]) -> tuple[Kind[Any, Any], Any]:
    """The kind of evaluation and its settings for what `--data` has of a suite; `note` is called with what it has not.

    Raises:
        UserError: an unknown suite, an option that the suite decides, no folder, nothing of the suite in it.
    """
    suite = SUITES.choose(arguments.suite)
    _refuse_options(arguments)
    data = given_folder(arguments.data, f"suite {arguments.suite!r}")
    present = suite.present(data)
    if not present:
        listed = ", ".join(suite.tasks)
        raise UserError(f"--data: {data}: has nothing of suite {arguments.suite!r}, expected files of {listed}")
    for name in (name for name in suite.tasks if name not in present):
        note(f"{data}: nothing of {name}, expected {suite.expected(name)}")
    return settings(suite, present, data, arguments)


def settings(
    suite: Suite, present: Sequence[str], data: Path, arguments: argparse.Namespace
) -> tuple[Kind[Any, Any], Any]:
    readings, limit, batch = suite.readings(present, arguments.seed), arguments.limit, arguments.batch
    if suite.length is None:
        return benchmarks.KIND, Benchmarks(readings, data, limit, batch)
    files = tuple((name, corpora.located(name, data)) for name in present)
    return corpora.KIND, Corpora(files, readings[0][1], suite.length, limit, batch)


def _refuse_options(arguments: argparse.Namespace) -> None:
    from dualm.likelihood.modes import Scoring

    decided = {"modes": ()} | {one.name: one.default for one in fields(Scoring) if one.name not in ("mode", "seed")}
    for name, default in decided.items():
        if getattr(arguments, name) != default:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option}: got {getattr(arguments, name)!r} with --suite, expected none: a suite decides it"
            )


def listing() -> RenderableType:
    """Every suite with its readings and the files that it looks for."""
    tables: list[RenderableType] = []
    for name, suite in SUITES.items():
        made = result_table(f"{name}: {suite.about}", ("task", "read as"), ())
        made.add_column("files in DIR, at any depth", overflow="fold")
        for task, scorings in suite.readings(list(suite.tasks)):
            made.add_row(task, ", ".join(map(_label, scorings)), suite.expected(task))
        tables += [made, Text()]
    return Group(*tables)


def _label(scoring: Scoring) -> str:
    return reading_label(scoring) + (f", draws {scoring.draws}" if scoring.how.draws else "")


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from rich.console import Console

        Console().print(listing())
        parser.exit()
