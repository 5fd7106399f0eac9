"""Charts as matplotlib figures for papers and notebooks: PNG for the screen, PDF for print."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
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
    for order, mark in enumerate(panel.marks):
        if isinstance(mark, Heat):
            _heat(figure, axis, mark)
        else:
            _series(axis, mark, heat, order + 3)
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


def _series(axis: Axes, mark: Series, heat: Heat | None, order: int) -> None:
    if mark.low is not None and mark.high is not None:
        if mark.marker:
            below = [max(0.0, y - low) for y, low in zip(mark.y, mark.low, strict=True)]
            above = [max(0.0, high - y) for y, high in zip(mark.y, mark.high, strict=True)]
            axis.errorbar(mark.x, mark.y, (below, above), fmt="none", ecolor=mark.colour, elinewidth=1, zorder=order)
        else:
            axis.fill_between(mark.x, mark.low, mark.high, color=mark.colour, alpha=0.22, linewidth=0, zorder=order)
    if mark.dash:
        axis.plot(mark.x, mark.y, DASHES[mark.dash], color=mark.colour, linewidth=0.7 * mark.width, zorder=order)
    if mark.marker:
        colours: dict[str, Any] = {"color": mark.colour}
        if mark.values is not None and heat:
            colours = {"c": mark.values, "cmap": _colours(heat), "vmin": heat.span[0], "vmax": heat.span[1]}
        axis.scatter(
            mark.x,
            mark.y,
            s=(0.75 * mark.size) ** 2,
            marker=MARKERS[mark.marker],
            edgecolors="white",
            linewidths=0.8,
            snap=False,
            zorder=order + 0.5,
            **colours,
        )


def _entry(mark: Series) -> Line2D:
    style = DASHES[mark.dash] if mark.dash else "none"
    return Line2D([], [], color=mark.colour, ls=style, marker=MARKERS.get(mark.marker or ""), label=mark.name)
