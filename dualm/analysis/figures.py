"""Charts as matplotlib figures for papers and notebooks: PNG for the screen, PDF for print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualm import files
from dualm.analysis.charts import HEAT, Chart, Heat, Panel, Series, legend

PANEL = 3.3, 2.5  # inches
MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "star": "*"}
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}


def draw(chart: Chart) -> Figure:
    """The chart with its panels in rows and one legend below them."""
    columns = min(chart.columns, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.7), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, axis in zip(chart.panels, axes, strict=False):
            _panel(figure, axis, panel)
        for axis in axes[len(chart.panels) :]:
            axis.set_visible(False)
        if named := legend(chart):
            figure.legend(
                handles=[_entry(mark) for mark in named], loc="outside lower center", ncols=min(6, 2 * columns)
            )
    return figure


def save(charts: Iterable[Chart], folder: Path) -> list[Path]:
    """Write each chart as NAME.png and NAME.pdf into `folder`. The same chart always gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        figure = draw(chart)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # the layout is computed once, for both files
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            path = folder / f"{chart.name}.{suffix}"
            with files.replacing(path) as partial:
                figure.savefig(partial, format=suffix, dpi=160, metadata=metadata)
            written.append(path)
    return written


def _panel(figure: Figure, axis: Axes, panel: Panel) -> None:
    axis.set(title=panel.title, xlabel=panel.x.title, ylabel=panel.y.title)
    for drawn, side in ((axis.xaxis, panel.x), (axis.yaxis, panel.y)):
        if side.ticks:
            drawn.set_ticks([position for position, _ in side.ticks], [label for _, label in side.ticks])
    heat = next((mark for mark in panel.marks if isinstance(mark, Heat)), None)
    if heat:
        _heat(figure, axis, heat)
    series = [mark for mark in panel.marks if isinstance(mark, Series)]
    for order, mark in enumerate(series):
        _bounds(axis, mark, order / len(series) + 2)
    _lines(axis, [mark for mark in series if mark.dash])
    for order, mark in enumerate(series):
        height = 3.5 + order / len(series) / 2
        if mark.values is not None and heat:
            scale = {"cmap": _colours(heat), "vmin": heat.span[0], "vmax": heat.span[1]}
            _scatter(axis, mark.marker, mark.x, mark.y, mark.size, c=mark.values, zorder=height, **scale)
        elif mark.marker and mark.marker not in {before.marker for before in series[:order]}:
            alike = [each for each in series if each.marker == mark.marker and each.values is None]
            _markers(axis, alike, height)
    axis.autoscale_view()
    if panel.x.span:
        axis.set_xlim(*panel.x.span)
    if panel.y.span:
        axis.set_ylim(*panel.y.span)


def _heat(figure: Figure, axis: Axes, mark: Heat) -> None:
    image = axis.pcolormesh(
        mark.x,
        mark.y,
        mark.z,
        cmap=_colours(mark),
        vmin=mark.span[0],
        vmax=mark.span[1],
        shading="gouraud",
        rasterized=True,
    )
    figure.colorbar(image, ax=axis, label=mark.label, extend="min" if mark.reverse else "max")
    axis.grid(False)


def _colours(heat: Heat) -> str:
    return HEAT + "_r" * heat.reverse


def _bounds(axis: Axes, mark: Series, order: float) -> None:
    if mark.low is None or mark.high is None:
        return
    if mark.marker:
        below = [max(0.0, y - low) for y, low in zip(mark.y, mark.low, strict=True)]
        above = [max(0.0, high - y) for y, high in zip(mark.y, mark.high, strict=True)]
        axis.errorbar(mark.x, mark.y, (below, above), fmt="none", ecolor=mark.colour, elinewidth=1, zorder=order)
    else:
        axis.fill_between(mark.x, mark.low, mark.high, color=mark.colour, alpha=0.22, linewidth=0, zorder=order)


def _lines(axis: Axes, series: Sequence[Series]) -> None:
    """All lines of a panel as one collection: an artist for each takes a minute for two thousand runs."""
    lines = LineCollection(
        [list(zip(mark.x, mark.y, strict=True)) for mark in series],
        colors=[mark.colour for mark in series],
        linewidths=[0.7 * mark.width for mark in series],
        linestyles=[DASHES[mark.dash or "solid"] for mark in series],
        capstyle="projecting",
        joinstyle="round",
        zorder=3,
    )
    axis.add_collection(lines)


def _markers(axis: Axes, series: Sequence[Series], order: float) -> None:
    """The points of all series with one marker as one collection."""
    counts = [len(mark.x) for mark in series]
    x, y = (np.concatenate([getattr(mark, name) for mark in series]) for name in ("x", "y"))
    sizes, colours = (np.repeat([getattr(mark, name) for mark in series], counts) for name in ("size", "colour"))
    _scatter(axis, series[0].marker, x, y, sizes, c=colours, zorder=order)


def _scatter(axis: Axes, marker: str | None, x: Any, y: Any, size: Any, **look: Any) -> None:
    area = (0.75 * np.asarray(size)) ** 2
    axis.scatter(x, y, s=area, marker=MARKERS.get(marker or ""), edgecolors="white", linewidths=0.8, snap=False, **look)


def _entry(mark: Series) -> Line2D:
    style = DASHES[mark.dash] if mark.dash else "none"
    return Line2D([], [], color=mark.colour, ls=style, marker=MARKERS.get(mark.marker or ""), label=mark.name)
