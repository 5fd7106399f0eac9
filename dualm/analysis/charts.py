"""The content of a figure, independent of the library that draws it.

A chart is data: panels of marks in the units of the reader, with colours, captions and hover texts. `figures` draws it
with matplotlib for papers and `page` with plotly for the screen. Both show the same numbers in the same colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from dualm.analysis.surface import separate
from dualm.analysis.table import POOL, Target
from dualm.evaluation.readings import DRAWN, READINGS, Marker, Reading
from dualm.sweep.labels import alpha_label, count_label, flops_label

Dash = Literal["solid", "dash", "dot"]


@dataclass(frozen=True)
class Axis:
    """An axis. Without `ticks` the drawing library chooses them."""

    title: str
    ticks: tuple[tuple[float, str], ...] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Points of one kind: joined by a line, marked, or both. `low` and `high` are the bounds of each point.

    Bounds are drawn as bars at marked points and as a shaded band along a line without markers. Points with `values` use
    the colour scale of the heat map in their panel. The legend lists each `name` once, sorted by `rank`. `hover` is the
    text shown at each point.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dash: Dash | None = None
    marker: Marker | None = None
    size: float = 7
    width: float = 1.8
    values: Sequence[float] | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    hover: Sequence[str] = ()
    rank: float = 0.0


@dataclass(frozen=True)
class Heat:
    """A heat map of values `z[row of y][column of x]`. Low values are dark; with `reverse`, high values are dark.

    Values outside `span` take the colour of its nearer end.
    """

    x: Sequence[float]
    y: Sequence[float]
    z: Sequence[Sequence[float]]
    label: str
    span: tuple[float, float]
    hover: Sequence[Sequence[str]]
    reverse: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    x: Axis
    y: Axis
    marks: tuple[Series | Heat, ...]


@dataclass(frozen=True)
class Chart:
    """One figure; `name` is its file name. Charts of one `group` are alternatives, each labelled with its `tab`."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    group: str = ""
    tab: str = ""
    columns: int = 3


def legend(chart: Chart) -> list[Series]:
    """The first series of each name, sorted by rank."""
    named = {}
    for panel in chart.panels:
        for mark in panel.marks:
            if isinstance(mark, Series) and mark.name:
                named.setdefault(mark.name, mark)
    return sorted(named.values(), key=lambda mark: mark.rank)


INK = "#1d2330"
RULE = "#555555"  # published values, beside the measured ones
HEAT = "cividis"


def alpha_position(alpha: float) -> float:
    """The position of alpha on an axis. The scale is that of the fitted surface, which separates 0, 1/256, ..., 1."""
    return float(separate(np.array(alpha)))


@cache
def alpha_colour(alpha: float) -> str:
    """Dark blue at 0, purple, then orange at 1. Lightness always increases, in proportion to `alpha_position`."""
    low, here, high = alpha_position(0), alpha_position(alpha), alpha_position(1)
    return to_hex(colormaps["plasma"](0.84 * (here - low) / (high - low)))


def budget_label(flops: float) -> str:
    """`2.5e12`: two digits, because budgets are rounded down to whole steps."""
    return flops_label(flops, 2)


def range_label(counts: Sequence[float]) -> str:
    """`105k`, or `26k to 105k` if they differ."""
    ends = [count_label(end) for end in (min(counts), max(counts))]
    return " to ".join(dict.fromkeys(ends))


def interval_label(value: float, low: float, high: float, label: Callable[[float], str]) -> str:
    """`28k (26k to 30k)`, or only the value if its interval is unknown."""
    return label(value) if math.isnan(low) else f"{label(value)} ({label(low)} to {label(high)})"


def repetition_axis(values: Sequence[float], pad: float = 0.0) -> Axis:
    """log2 R, with a label at each of `values`."""
    positions = [math.log2(value) for value in values]
    ticks = tuple((position, f"{value:g}") for position, value in zip(positions, values, strict=True))
    return Axis("repetitions R of the data", ticks, (min(positions) - pad, max(positions) + pad))


def alpha_axis(values: Sequence[float] = POOL) -> Axis:
    """All of [0, 1], with a label at each of `values`."""
    edge = 0.35
    ticks = tuple((alpha_position(alpha), alpha_label(alpha)) for alpha in values)
    return Axis("AR ratio α", ticks, (alpha_position(0) - edge, alpha_position(1) + edge))


# Scores in the modes that are no reading of validation: PLL stands for MD there.
MODES: dict[str, tuple[str, Marker]] = {
    "pll": (READINGS["md"].colour, READINGS["md"].marker),
    "pll_mixed": ("#CC79A7", "diamond"),
    "mc": ("#56B4E9", "star"),
}


def colour(target: Target) -> str:
    """That of its reading, in losses and scores."""
    return READINGS[target.reading].colour if target.reading in READINGS else MODES.get(target.reading, (INK,))[0]


def marker(target: Target) -> Marker:
    if target.reading in READINGS:
        return READINGS[target.reading].marker
    return MODES[target.reading][1] if target.reading in MODES else "circle"


def present(names: Collection[str]) -> list[Reading]:
    """The readings whose keys are among `names`, in their fixed order."""
    return [reading for reading in DRAWN if reading.key in names]


def numbers(column: Any) -> list[float]:
    """A column of a table as plain floats."""
    return np.asarray(column, float).tolist()


def records(rows: pd.DataFrame) -> list[Any]:
    """The rows of a table as named tuples."""
    return list(rows.itertuples(index=False))


def by_value(rows: pd.DataFrame, column: str) -> Iterator[tuple[float, pd.DataFrame]]:
    """The rows of each value of `column`, in rising order."""
    for value in sorted(set(numbers(rows[column]))):
        yield value, rows[rows[column] == value]
