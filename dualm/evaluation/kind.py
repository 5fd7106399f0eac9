"""What a kind of evaluation is: the record that `dualm evaluate` runs, and the options that several kinds share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rich.console import RenderableType

from dualm.errors import UserError

if TYPE_CHECKING:
    from dualm.language_model import LanguageModel
    from dualm.likelihood.modes import Scoring


class Settings(Protocol):
    """A frozen dataclass of everything that decides the numbers of an evaluation.

    Fields with `compare=False` (batch size, what is printed) decide none. Two evaluations whose other fields are equal
    are the same measurement: see `dualm.evaluation.result_files`.
    """

    @property
    def label(self) -> tuple[str, ...]:
        """The parts of a file name that tell a reader what was measured."""
        ...


What = TypeVar("What", bound=Settings)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Kind(Generic[What, Result]):
    """A kind of evaluation, by the name of the option that says what to measure.

    The module of a kind is imported to build the command line, so it imports torch only inside functions.
    """

    add_arguments: Callable[[argparse._ArgumentGroup], None]
    settings: Callable[[argparse.Namespace], What]  # raises UserError for an invalid value
    read: Callable[[What], Any]  # the inputs, before the model is loaded; raises UserError
    run: Callable[[LanguageModel, What, Any, Callable[[str], None]], Iterator[Result]]  # one result after the other
    row: Callable[[Result], dict[str, Any]]  # a result for JSON; rows under "subtasks" get lines of their own in CSV
    table: Callable[[Sequence[Result], str, What], RenderableType]  # results, title, settings
    summary: Callable[[Sequence[Result], What], dict[str, Any]] | None = None  # of all results, for JSON


def add_scoring(group: argparse._ArgumentGroup) -> None:
    """The options of `Scoring`: one line for each of its fields."""
    group.add_argument("--modes", type=names, default=(), metavar="NAMES", help="how to read the model, such as ar,mc")
    group.add_argument("--draws", type=int, default=32, help="masks per pair or window in mode mc (default 32)")
    group.add_argument("--seed", type=int, default=0, help="of the masks of mode mc and of samplers (default 0)")
    group.add_argument("--guidance", type=float, default=0.0, help="weight of classifier-free guidance (default 0)")
    group.add_argument(
        "--mask-padding", type=int, default=0, metavar="N", help="mc, chain, pll: masks after a text up to N tokens"
    )
    group.add_argument("--time-steps", type=int, default=0, metavar="T", help="mc: the bound of T discrete steps")


def scorings(arguments: argparse.Namespace, default_modes: Sequence[str]) -> tuple[Scoring, ...]:
    """One for each mode. Raises UserError for an unknown mode, or a setting that a mode ignores."""
    from dualm.likelihood.modes import Scoring

    shared = {option.name: getattr(arguments, option.name) for option in fields(Scoring) if option.name != "mode"}
    return tuple(Scoring(mode, **shared) for mode in arguments.modes or default_modes)


def names(listed: str) -> tuple[str, ...]:
    """The names in a text that separates them by commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def check_at_least(lowest: int, option: str, value: int | None) -> None:
    """Raises UserError for a value below `lowest`."""
    if value is not None and value < lowest:
        raise UserError(f"{option}: got {value}, expected at least {lowest}")


def label(subjects: Sequence[str], modes: Sequence[str], *more: str, limit: int | None = None) -> tuple[str, ...]:
    """The label of an evaluation of `subjects`, of which the first ones are named."""
    shown = subjects if len(subjects) <= 4 else (*subjects[:3], f"{len(subjects) - 3}-more")
    return ("+".join(shown), "+".join(modes), *more, *([f"limit{limit}"] if limit else []))
