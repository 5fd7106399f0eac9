"""Charts, sentences and a table as one self-contained HTML page, which works offline, on a phone and in print.

The page contains plotly's script and forbids all requests. Except for headings, all its text is passed in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

from plotly.offline import get_plotlyjs

from dualm.analysis.charts import HEAT, INK, Axis, Chart, Heat, Panel, Series, legend
from dualm.analysis.findings import Finding

SYMBOLS = {"circle": "circle", "square": "square", "triangle": "triangle-up", "diamond": "diamond", "star": "star"}
HIDDEN = {"hoverinfo": "skip", "showlegend": False}


@dataclass(frozen=True)
class Cell:
    """One cell of the table: its text, the value it is sorted by, and its colour, if it has one."""

    text: str
    value: float | str | None = None
    colour: str = ""
    lowest: bool = False  # of its column


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str  # of its section


@dataclass(frozen=True)
class Page:
    title: str
    about: str
    terms: Sequence[tuple[str, str]]  # a term and its definition
    findings: Sequence[tuple[str, Sequence[Finding]]]  # what they are about, and the findings
    left_out: Sequence[str]
    charts: Sequence[Chart]
    tables: Sequence[Table]
    footer: str


def render(page: Page) -> str:
    """The page as HTML text. All text from data is escaped."""
    plots = {f"{chart.name}-{n}": plot(panel) for chart in page.charts for n, panel in enumerate(chart.panels)}
    slots = {
        "<!--TITLE-->": escape(page.title),
        "<!--ABOUT-->": escape(page.about),
        "<!--BODY-->": "\n".join(
            [_terms(page.terms), _sentences(page), *_sections(page.charts), *map(_table, page.tables)]
        ),
        "<!--FOOTER-->": escape(page.footer),
        "/*PLOTS*/": json.dumps(plots, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        ),
        "/*PLOTLY*/": get_plotlyjs(),
    }
    text = resources.files("dualm.analysis").joinpath("report.html").read_text(encoding="utf-8")
    for slot, content in slots.items():
        text = text.replace(slot, content)
    return text


def _terms(terms: Sequence[tuple[str, str]]) -> str:
    entries = "".join(f"<dt>{escape(term)}</dt><dd>{escape(definition)}</dd>" for term, definition in terms)
    return f'<section id="terms"><h2>Terms</h2><dl>{entries}</dl></section>'


def _sentences(page: Page) -> str:
    found = "".join(
        f"<h3>{escape(about)}</h3><ul>{''.join(map(_finding, every))}</ul>" for about, every in page.findings
    )
    left_out = "".join(f"<li>{escape(sentence)}</li>" for sentence in page.left_out)
    sections = (
        (found, f'<section id="findings"><h2>Findings</h2>{found}</section>'),
        (left_out, f'<section id="left-out"><h2>Left out</h2><ul class="soft">{left_out}</ul></section>'),
    )
    return "".join(section for content, section in sections if content)


def _finding(finding: Finding) -> str:
    """The claim with its verdict, and the sentences with the numbers that decide it."""
    parts = "".join(
        f'<li class="{_css_class(part.verdict)}" title="{part.verdict}">{escape(part.statement)}</li>'
        for part in finding.parts
    )
    verdict = f'<span class="verdict {_css_class(finding.verdict)}">{finding.verdict}</span>'
    return f"<li>{verdict} {escape(finding.claim)}<ul>{parts}</ul></li>"


def _css_class(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _sections(charts: Sequence[Chart]) -> list[str]:
    """One section per chart or group of charts. Of a group, one chart is visible at a time."""
    sections = []
    for _, together in groupby(charts, key=lambda chart: chart.group or chart.name):
        group = list(together)
        tabs = "".join(
            f'<button type="button" data-shows="{chart.name}" aria-pressed="{str(chart is group[0]).lower()}">'
            f"{escape(chart.tab)}</button>"
            for chart in group
            if len(group) > 1
        )
        figures = "".join(_figure(chart, hidden=chart is not group[0]) for chart in group)
        tabs = f'<div class="tabs">{tabs}</div>' if tabs else ""
        sections.append(f"<section><h2>{escape(group[0].title)}</h2>{tabs}{figures}</section>")
    return sections


def _figure(chart: Chart, hidden: bool) -> str:
    panels = "".join(
        f'<div class="panel"><h3>{escape(panel.title)}</h3><div class="plot" id="{chart.name}-{n}"></div></div>'
        for n, panel in enumerate(chart.panels)
    )
    named = "".join(
        f'<button type="button" data-name="{escape(mark.name)}" aria-pressed="false">'
        f'<i class="{mark.dash or f"mark {mark.marker}"}" style="color:{mark.colour}"></i>{escape(mark.name)}</button>'
        for mark in legend(chart)
    )
    return (
        f'<figure id="{chart.name}" class="{"hidden" if hidden else ""}">'
        f'<figcaption>{escape(chart.caption)}</figcaption><div class="legend">{named}</div>'
        f'<div class="panels{" single" if len(chart.panels) == 1 else ""}">{panels}</div></figure>'
    )


def _table(table: Table) -> str:
    text = [isinstance(cell.value, str) for cell in table.rows[0]]
    head = "".join(
        f'<th scope="col"{" data-text" if is_text else ""}><button type="button">{escape(heading)}</button></th>'
        for heading, is_text in zip(table.headings, text, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<section id="{table.name}" class="data"><h2>{escape(table.title)}</h2><p class="soft">Press a heading to sort by it. '
        f'{escape(table.note)}</p><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _cell(cell: Cell) -> str:
    swatch = f'<span class="swatch" style="background:{cell.colour}"></span>' if cell.colour else ""
    value = "" if cell.value is None else escape(str(cell.value))
    return f'<td data-value="{value}"{" class=lowest" if cell.lowest else ""}>{swatch}{escape(cell.text)}</td>'


def plot(panel: Panel) -> dict[str, Any]:
    """The data and the layout of a panel, as plotly reads them."""
    heat = next((mark for mark in panel.marks if isinstance(mark, Heat)), None)
    data = [
        trace for mark in panel.marks for trace in ([_heat(mark)] if isinstance(mark, Heat) else _series(mark, heat))
    ]
    layout = {
        "xaxis": _axis(panel.x),
        "yaxis": _axis(panel.y),
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 8, "r": 8, "t": 6, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "#fff",
        "font": {"family": "system-ui, 'Segoe UI', 'Liberation Sans', sans-serif", "size": 11, "color": INK},
        "hoverlabel": {"bgcolor": "#fff", "font": {"color": INK, "size": 12}, "align": "left"},
    }
    return {"data": data, "layout": layout}


def _axis(axis: Axis) -> dict[str, Any]:
    look: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 6},
        "automargin": True,
        "gridcolor": "#e6e6e6",
        "linecolor": "#9aa0ac",
        "zeroline": False,
        "ticks": "outside",
        "tickangle": 0,
        "ticklen": 3,
        "tickcolor": "#9aa0ac",
    }
    if axis.ticks:
        positions, labels = zip(*axis.ticks, strict=True)
        look |= {"tickvals": positions, "ticktext": labels}
    if axis.span:
        look["range"] = axis.span
    return look


def _heat(heat: Heat) -> dict[str, Any]:
    bar = {"title": {"text": heat.label, "side": "right"}, "thickness": 10, "outlinewidth": 0, "xpad": 4}
    look = {
        "colorscale": HEAT.capitalize(),
        "reversescale": heat.reverse,
        "zsmooth": "best",
        "zmin": heat.span[0],
        "zmax": heat.span[1],
        "colorbar": bar,
    }
    hover = {"text": heat.hover, "hovertemplate": "%{text}<extra></extra>"}
    return {"type": "heatmap", "x": heat.x, "y": heat.y, "z": heat.z, **look, **hover}


def _series(mark: Series, heat: Heat | None) -> list[dict[str, Any]]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": mark.name,
        "x": mark.x,
        "y": mark.y,
        "mode": "+".join(["lines"] * bool(mark.dash) + ["markers"] * bool(mark.marker)),
    }
    trace |= {"text": mark.hover, "hovertemplate": "%{text}<extra></extra>"} if mark.hover else {"hoverinfo": "skip"}
    if mark.dash:
        trace["line"] = {"color": mark.colour, "dash": mark.dash, "width": mark.width}
    if mark.marker:
        trace["marker"] = {
            "symbol": SYMBOLS[mark.marker],
            "size": mark.size,
            "color": mark.colour,
            "line": {"color": "#fff", "width": 1},
        }
    if mark.values is not None and heat:
        ends = {"cmin": heat.span[0], "cmax": heat.span[1], "colorscale": HEAT.capitalize()}
        trace["marker"] |= {"color": mark.values, "reversescale": heat.reverse, **ends}
    if mark.low is None or mark.high is None:
        return [trace]
    if mark.marker:
        above = [high - y for y, high in zip(mark.y, mark.high, strict=True)]
        below = [y - low for y, low in zip(mark.y, mark.low, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
        return [trace | {"error_y": bars | {"color": mark.colour, "thickness": 1.3, "width": 3}}]
    return [*_band(mark), trace]


def _band(mark: Series) -> list[dict[str, Any]]:
    edge = {"type": "scatter", "name": mark.name, "mode": "lines", "line": {"width": 0}, "x": mark.x, **HIDDEN}
    red, green, blue = (int(mark.colour[i : i + 2], 16) for i in (1, 3, 5))
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.22)"}
    return [edge | {"y": mark.low}, edge | {"y": mark.high} | fill]
