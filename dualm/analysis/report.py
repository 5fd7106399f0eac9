"""The report of a sweep: one HTML page, and its figures as PNG and PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dualm import files
from dualm.analysis import figures, isoflop_charts, page, report_tables, run_charts, surface_charts
from dualm.analysis.analyze import Analysis, SweepAnalysis, left_out_lines
from dualm.analysis.charts import Chart, numbers, present, range_label
from dualm.analysis.findings import Finding
from dualm.analysis.page import Page
from dualm.analysis.table import LOSS, families, family_title
from dualm.sweep.labels import alpha_label

TITLE = "Autoregression and diffusion over repeated data"
TERMS = (
    ("R", "the number of repetitions. The token budget consists of budget/R unique tokens, each seen R times."),
    (
        "α",
        "the AR ratio: the fraction of training sequences with the autoregressive (AR) objective. The others have the "
        "masked diffusion (MD) objective.",
    ),
    (
        "Exposure",
        "one training pass over a token with one objective. Each token has α·R AR exposures and (1 - α)·R MD exposures.",
    ),
    ("Epoch", "one pass over the unique tokens."),
    (
        "±",
        "half the width of the 95 % t interval over seeds, for these validation windows and documents. A number of one seed is one "
        "observation and has none.",
    ),
    (
        "Loss",
        "validation loss in nats per token. The AR NLL is the negative log-likelihood; the MD NELBO is the diffusion "
        "upper bound on it. The prefix NLL is that of the second half of a window whose first half is read in both directions.",
    ),
)


def write_report(sweep: SweepAnalysis, out: Path) -> Path:
    """Write `report.html` and `figures/NAME.png|pdf` into the folder `out`; returns the path of the page."""
    drawn = charts(sweep)
    figures.save(drawn, out / "figures")
    content = Page(
        title=TITLE,
        about=about(sweep.table),
        terms=TERMS,
        findings=_findings(sweep),
        left_out=[
            *sweep.left_out,
            *(line for label, each in sweep.groups.items() for line in left_out_lines(label, each)),
        ],
        charts=drawn,
        tables=report_tables.tables(sweep),
        footer="This page needs no network. The folder figures/ beside it holds the same figures as PNG and PDF.",
    )
    path = out / "report.html"
    files.write_text(path, page.render(content))
    return path


def _findings(sweep: SweepAnalysis) -> list[tuple[str, list[Finding]]]:
    """The findings of each group on each family of columns, under what they are about."""
    found: dict[str, list[Finding]] = {}
    for label, group in sweep.groups.items():
        for finding in group.findings:
            found.setdefault(", ".join(filter(None, [finding.about, label])), []).append(finding)
    return list(found.items())


def charts(sweep: SweepAnalysis) -> list[Chart]:
    """Every figure for which there are numbers, in their order on the page. Those of one kind are alternatives, chosen by tabs."""
    kinds: dict[str, list[Chart]] = {}
    for label, group in sweep.groups.items():
        for chart in _of_group(group):
            tab = ", ".join(filter(None, [chart.tab, label])) or "all runs"
            own = replace(chart, group=chart.group or chart.name, tab=tab, name=_slug(chart.name, label))
            kinds.setdefault(own.group, []).append(own)
    return [chart for kind in kinds.values() for chart in kind]


def _slug(name: str, label: str) -> str:
    return re.sub(r"[^\w]+", "-", f"{name}-{label}").strip("-")


def _of_group(group: Analysis) -> Iterator[Chart]:
    if group.isoflop:
        yield isoflop_charts.profiles(group.isoflop)
    if with_laws := [fit for fit in group.isoflop if fit.laws]:
        yield isoflop_charts.laws(with_laws, group.gap)
    for family, members in families(group.targets).items():
        names = [target.name for target in members.values() if target.name in group.surfaces]
        if names:
            yield from (_of_family(chart, family) for chart in _surface_charts(group, names))
    for reading in present(set(group.overfitting["reading"])):
        yield run_charts.curves(group.table, group.overfitting, reading)
    if group.scaling:
        yield run_charts.scaling(group.scaling)


def _surface_charts(group: Analysis, names: Sequence[str]) -> list[Chart]:
    surfaces, best = {name: group.surfaces[name] for name in names}, {name: group.best[name] for name in names}
    probabilities = {name: group.probabilities[name] for name in names}
    return [
        surface_charts.best_alpha(best),
        surface_charts.surface(surfaces, best),
        surface_charts.probability(probabilities),
        surface_charts.left_out(surfaces),
    ]


def _of_family(chart: Chart, family: str) -> Chart:
    """The chart of one family among its alternatives; that of the losses keeps its name."""
    name = chart.name if family == LOSS else f"{chart.name}-{family}"
    return replace(chart, name=name, group=chart.name, tab=family_title(family))


def about(table: pd.DataFrame) -> str:
    """A summary of the runs in a few short sentences."""
    runs = table.drop_duplicates("run")
    repetitions, alphas = (set(numbers(runs[column])) for column in ("R", "alpha"))
    finished = sum(numbers(runs["finished"]))
    parameters, budget = (range_label(numbers(runs[column])) for column in ("parameters", "budget_tokens"))
    return (
        f"{finished:g} of {len(runs)} runs finished; {parameters} parameters, {budget} tokens each. "
        f"Repetitions R: {', '.join(f'{value:g}' for value in sorted(repetitions))}. "
        f"AR ratios α: {', '.join(map(alpha_label, sorted(alphas)))}."
        + (
            f" Seeds: {seeds}, merged."
            if (seeds := runs["seed"].nunique()) > 1
            else " One seed: no interval covers seeds."
        )
    )
