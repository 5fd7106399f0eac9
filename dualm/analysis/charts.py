"""What a figure shows, apart from who draws it.

A chart is data: panels of marks in the reader's units, with their colours, captions and hover texts. `figures` draws it
with matplotlib for papers and `page` with plotly for the screen, so that both show the same numbers in the same colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from dualm.analysis.surface import separate
from dualm.analysis.table import POOL
from dualm.evaluation.readings import DRAWN, Marker, Reading
from dualm.sweep.isoflop import flops_label

Dash = Literal["solid", "dash", "dot"]


@dataclass(frozen=True)
class Axis:
    """An axis; without `ticks` it finds its own numbers."""

    title: str
    ticks: tuple[tuple[float, str], ...] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Points of one kind: joined by a line, marked, or both; `low` and `high` bound each of them.

    The bounds are bars at marked points and a shaded band along a bare line. Points with `values` take their colours from
    the heat beneath them. Series with a `name` stand in the legend, once a name and by `rank`. `hover` is what a
    pointer is told.
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
    """A field of values `z[row of y][column of x]`, dark where it is low, or if `reverse`, high.

    Values beyond `span` take the colour of its end.
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
    """One figure: `name` is its file's. Charts of one `group` are alternatives of each other, told apart by `tab`."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    group: str = ""
    tab: str = ""
    columns: int = 3


def legend(chart: Chart) -> list[Series]:
    """The first series of each name, by rank."""
    named = {}
    for panel in chart.panels:
        for mark in panel.marks:
            if isinstance(mark, Series) and mark.name:
                named.setdefault(mark.name, mark)
    return sorted(named.values(), key=lambda mark: mark.rank)


INK = "#1d2330"
RULE = "#555555"  # whatever was published, beside what was measured
HEAT = "cividis"


def alpha_place(alpha: float) -> float:
    """Where alpha stands on an axis: the scale that the surface is fitted on, which tells 0, 1/256, ..., 1 apart."""
    return float(separate(np.array(alpha)))


@cache
def alpha_colour(alpha: float) -> str:
    """Dark blue at 0 through purple to orange at 1, growing lighter all the way; steps as on `alpha_place`'s scale."""
    low, here, high = alpha_place(0), alpha_place(alpha), alpha_place(1)
    return to_hex(colormaps["plasma"](0.84 * (here - low) / (high - low)))


def alpha_label(alpha: float) -> str:
    """1/256 rather than 0.00390625, where the denominator is a power of two."""
    fraction = Fraction(alpha).limit_denominator(4096)
    exact = math.isclose(float(fraction), alpha, rel_tol=1e-6) and fraction.denominator.bit_count() == 1
    return str(fraction) if exact else f"{alpha:.3g}"


def tokens_label(tokens: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def budget_label(flops: float) -> str:
    """`2.5e12`: two digits, which a budget rounded down to whole steps keeps."""
    return flops_label(flops, 2)


def range_label(counts: Sequence[float]) -> str:
    """`105k`, or `26k to 105k` if they differ."""
    ends = [tokens_label(end) for end in (min(counts), max(counts))]
    return " to ".join(dict.fromkeys(ends))


def interval_label(value: float, low: float, high: float, label: Callable[[float], str]) -> str:
    """`28k (26k to 30k)`, or the value alone if no interval of it is known."""
    return label(value) if math.isnan(low) else f"{label(value)} ({label(low)} to {label(high)})"


def repetition_axis(values: Sequence[float], pad: float = 0.0) -> Axis:
    """log2 R, with a label at each of `values`."""
    places = [math.log2(value) for value in values]
    ticks = tuple((place, f"{value:g}") for place, value in zip(places, values, strict=True))
    return Axis("repetitions R of the data", ticks, (min(places) - pad, max(places) + pad))


def alpha_axis(values: Sequence[float] = POOL) -> Axis:
    """All of [0, 1], with a label at each of `values`."""
    edge = 0.35
    ticks = tuple((alpha_place(alpha), alpha_label(alpha)) for alpha in values)
    return Axis("AR ratio α", ticks, (alpha_place(0) - edge, alpha_place(1) + edge))


def present(names: Collection[str]) -> list[Reading]:
    """The readings among `names`, in their fixed order."""
    return [reading for reading in DRAWN if reading.key in names]


def numbers(column: Any) -> list[float]:
    """A column of a table as plain floats."""
    return np.asarray(column, float).tolist()


def records(rows: pd.DataFrame) -> list[Any]:
    """The rows of a table as named tuples."""
    return list(rows.itertuples(index=False))


def groups(rows: pd.DataFrame, column: str) -> Iterator[tuple[float, pd.DataFrame]]:
    """The rows of each value of `column`, from the least on."""
    for value in sorted(set(numbers(rows[column]))):
        yield value, rows[rows[column] == value]
