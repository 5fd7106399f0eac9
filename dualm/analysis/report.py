"""The report of a sweep: one HTML page, and its figures as PNG and PDF."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from dualm import files
from dualm.analysis import figures, isoflop_charts, page, run_charts, surface_charts
from dualm.analysis.analyze import Analysis
from dualm.analysis.charts import Chart, alpha_colour, numbers, present, range_label, records
from dualm.analysis.page import Cell, Page
from dualm.analysis.table import targets
from dualm.sweep.labels import alpha_label, count_label

NONE = Cell("–")
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
        "Loss",
        "validation loss in nats per token. The AR NLL is the negative log-likelihood; the MD NELBO is the diffusion "
        "upper bound on it. The prefix NLL is that of the second half of a window whose first half is read in both directions.",
    ),
)


def write_report(table: pd.DataFrame, analysis: Analysis, out: Path) -> Path:
    """Write `report.html` and `figures/NAME.png|pdf` into the folder `out`; returns the path of the page.

    `table` has a row per run and validation, as `dualm.sweep.results.load_results` returns it.
    """
    drawn = charts(table, analysis)
    figures.save(drawn, out / "figures")
    columns = list(runs_table(table, analysis.overfitting))
    content = Page(
        title=TITLE,
        about=about(table),
        terms=TERMS,
        findings=analysis.findings,
        left_out=analysis.left_out,
        charts=drawn,
        headings=[heading for heading, _ in columns],
        rows=list(zip(*(cells for _, cells in columns), strict=True)),
        footer="This page needs no network. The folder figures/ beside it holds the same figures as PNG and PDF.",
    )
    path = out / "report.html"
    files.write_text(path, page.render(content))
    return path


def charts(table: pd.DataFrame, analysis: Analysis) -> list[Chart]:
    """Every figure for which `analysis` has numbers, in their order on the page."""
    drawn = []
    if analysis.isoflop:
        drawn.append(isoflop_charts.profiles(analysis.isoflop))
    if with_laws := [fit for fit in analysis.isoflop if fit.laws]:
        drawn.append(isoflop_charts.laws(with_laws, analysis.gap))
    if readings := present(analysis.best):
        drawn.append(surface_charts.best_alpha({reading: analysis.best[reading.key] for reading in readings}))
    if analysis.surfaces:
        drawn.append(surface_charts.surface(analysis.surfaces, analysis.best))
        drawn.append(surface_charts.probability(analysis.probabilities))
        drawn.append(surface_charts.left_out(analysis.surfaces))
    for reading in present(set(analysis.overfitting["reading"])):
        drawn.append(run_charts.curves(table, analysis.overfitting, reading))
    if analysis.scaling:
        drawn.append(run_charts.scaling(table, analysis.scaling))
    return drawn


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
    )


def runs_table(table: pd.DataFrame, overfitting: pd.DataFrame) -> Iterator[tuple[str, list[Cell]]]:
    """Heading and cells of every column. A row is a run, sorted by R and alpha; the rise is that after its lowest loss."""
    last = table.sort_values("step").groupby("run").tail(1).sort_values(["R", "alpha", "seed"])
    runs = records(last)
    yield "run", [Cell(run.run, run.run) for run in runs]
    yield "R", [Cell(f"{run.R}", run.R) for run in runs]
    yield "α", [Cell(alpha_label(run.alpha), run.alpha, alpha_colour(run.alpha)) for run in runs]
    yield "seed", [Cell(f"{run.seed}", run.seed) for run in runs]
    if last["parameters"].nunique() > 1:
        yield "parameters", [Cell(count_label(run.parameters), run.parameters) for run in runs]
        yield "tokens", [Cell(count_label(run.tokens), run.tokens) for run in runs]
    yield "unique tokens", [Cell(count_label(run.unique_tokens), run.unique_tokens) for run in runs]
    yield "AR exposures", [Cell(f"{run.ar_exposures:.3g}", run.ar_exposures) for run in runs]
    yield "MD exposures", [Cell(f"{run.md_exposures:.3g}", run.md_exposures) for run in runs]
    yield "state", [Cell("finished" if run.finished else f"at step {run.step}", str(run.finished)) for run in runs]
    for reading in present(set(overfitting["reading"])):
        ends = {row.run: row for row in records(overfitting[overfitting["reading"] == reading.key])}
        found = [ends.get(run.run) for run in runs]
        yield f"{reading.loss}, end", _losses([row and row.loss_last for row in found])
        yield f"{reading.loss}, lowest", _losses([row and row.loss_least for row in found])
        yield (
            f"{reading.loss}, rise",
            [Cell(f"{row.gap:.3f} ± {row.gap_se:.3f}", row.gap) if row else NONE for row in found],
        )
    for target in targets(table):
        if target.higher_is_better:
            scores = numbers(last[target.column])
            yield target.name, [NONE if math.isnan(score) else Cell(f"{score:.3f}", score) for score in scores]


def _losses(values: Sequence[float | None]) -> list[Cell]:
    lowest = min(value for value in values if value is not None)
    return [NONE if value is None else Cell(f"{value:.3f}", value, lowest=value == lowest) for value in values]
