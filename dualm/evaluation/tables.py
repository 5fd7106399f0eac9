"""What the tables of results share: columns, groups and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from dualm.likelihood.modes import Scoring

Result = TypeVar("Result")


def result_table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table with columns of words, of which the first may be folded, and columns of numbers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_edge=False, collapse_padding=True)
    for column, heading in enumerate(words):
        table.add_column(heading, overflow="fold", no_wrap=column > 0)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def grouped(results: Sequence[Result], name: Callable[[Result], str]) -> Iterator[list[tuple[str, Result]]]:
    """Neighbouring results of one name, each with its first cell: the name once, then nothing."""
    for key, group in groupby(results, key=name):
        yield [(key if row == 0 else "", result) for row, result in enumerate(group)]


def reading_label(scoring: Scoring) -> str:
    """The mode, and what else sets a reading apart."""
    return f"{scoring.mode}, guidance {scoring.guidance:g}" if scoring.guidance else scoring.mode


def shown(value: float | None, digits: int, scale: float = 1) -> str:
    return "-" if value is None or math.isnan(value) else f"{value * scale:.{digits}f}"
