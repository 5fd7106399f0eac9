"""The summary that `dualm analyze` prints."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from dualm.analysis.analyze import Analysis, SweepAnalysis, finished_runs
from dualm.analysis.charts import budget_label, records
from dualm.analysis.isoflop import IsoFlopFit
from dualm.analysis.isoflop_charts import with_interval
from dualm.analysis.overfitting import merged
from dualm.analysis.replicates import seeds_label, with_half
from dualm.analysis.surface import Surface
from dualm.sweep.labels import alpha_label, count_label

COLOURS = {"shows": "green", "does not show": "red", "cannot tell": "yellow"}


def summary(sweep: SweepAnalysis) -> RenderableType:
    """The summary of each group, the comparisons between them, and what was left out."""
    parts: list[RenderableType] = []
    for label, group in sweep.groups.items():
        parts += [Rule(label)] if label else []
        parts.append(of_group(group))
    for shown, rows in ((_contests, sweep.contests), (_differences, sweep.differences)):
        known = rows[rows["seeds"] > 1]  # the report has those of one seed
        parts += [shown(known)] if len(known) else []
    return Group(*parts, *(Text(f"left out: {line}", "dim") for line in sweep.left_out))


def of_group(analysis: Analysis) -> RenderableType:
    """Findings, the best ratio of each surface, scaling, the points that overfit, and what was left out."""
    parts: list[RenderableType] = [_findings(analysis)] if analysis.findings else []
    parts += [_best(analysis.surfaces[name], best) for name, best in analysis.best.items()]
    if analysis.scaling:
        parts.append(_scaling(analysis))
    parts += map(_isoflop, analysis.isoflop)
    if analysis.gap:
        parts.append(Text(f"compute gap: {analysis.gap.statement}\n"))
    parts.append(_overfitting(merged(analysis.overfitting, finished_runs(analysis.table))))
    return Group(*parts, *(Text(f"left out: {line}", "dim") for line in analysis.left_out))


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _findings(analysis: Analysis) -> Table:
    table = _table("the published findings, tested on these runs", ("finding", "verdict"))
    for before, finding in zip([None, *analysis.findings], analysis.findings, strict=False):
        if before is None or before.about != finding.about:
            table.add_row(Text(finding.about, "bold underline"), "")
        table.add_row(Text(f"({finding.key}) {finding.claim}", "bold"), Text(finding.verdict, COLOURS[finding.verdict]))
        for part in finding.parts:
            table.add_row(Text(f"    {part.statement}"), Text(part.verdict, "dim"))
    return table


def _best(surface: Surface, best: pd.DataFrame) -> RenderableType:
    check = surface.leave_one_out
    coverage = ", ".join(
        f"{share:.0%} of points in their {percent} % interval" for percent, share in check.inside.items()
    )
    headings = ("R", "alpha", "90 %", "alpha·R", "90 %", "rule's alpha", "rule's cost, 90 %")
    table = _table(f"best alpha, {surface.name}", (), headings)
    for row in best.to_dict("records"):
        table.add_row(
            f"{row['R']:g}",
            f"{row['alpha']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            f"{row['exposures']:.3g}",
            f"{row['exposures_low']:.3g} to {row['exposures_high']:.3g}",
            f"{row['published_alpha']:.3f}",
            f"{row['cost_low']:.3f} to {row['cost_high']:.3f}",
        )
    return Group(table, Text(f"leave-one-out R² {check.r2:.3f}; {coverage}\n", "dim"))


def _scaling(analysis: Analysis) -> Table:
    table = _table("the value of repeated data", ("runs", "reading", "R_D* (90 %)"), ("published", "beta", "E0"))
    for fit in analysis.scaling:
        published = "" if fit.published is None else f"{fit.published:g}"
        table.add_row(fit.group, fit.reading, fit.half_life_label, published, f"{fit.beta:.2f}", f"{fit.floor:.2f}")
    return table


def _isoflop(fit: IsoFlopFit) -> RenderableType:
    table = _table(
        f"best size at equal compute, {fit.group}",
        (),
        ("FLOPs", "size N*, 90 %", "tokens D*", "D*/N*", "loss L*, 90 %"),
    )
    for profile in fit.profiles:
        budget, best = budget_label(profile.flops), profile.best
        if profile.is_inside:
            size, loss = with_interval(profile, "N", count_label), with_interval(profile, "loss", "{:.3f}".format)
            table.add_row(budget, size, count_label(best["D"]), f"{best['D'] / best['N']:.3g}", loss)
        else:
            table.add_row(budget, f"{profile.where} {count_label(best['N'])}")
    symbols = {"N": "N*", "D": "D*", "loss": "L*"}
    laws = (f"{symbols[name]} = {law.form}, p = {law.exponent_label}" for name, law in fit.laws.items())
    return Group(table, *(Text(f"  {law}", "dim") for law in laws), Text())


def _overfitting(rises: pd.DataFrame) -> Table:
    several = rises["seeds"].max() > 1
    counts = f"{int(rises['overfits'].sum())} of {len(rises)} {'points' if several else 'runs'} and readings overfit"
    spread = "± 95 % over seeds" if several else "± s.e."
    table = _table(counts, ("run", "reading"), ("lowest", "at epoch", "last", "gap", spread, "seeds"))
    for row in records(rises[rises["overfits"]].sort_values("gap", ascending=False)):
        half = row.gap_half if row.seeds > 1 else row.gap_se
        numbers = (f"{number:.3f}" for number in (row.loss_last, row.gap, half))
        table.add_row(
            row.run, row.reading, f"{row.loss_least:.3f}", f"{row.epochs_least:.3g}", *numbers, f"{row.seeds}"
        )
    return table


def _contests(rows: pd.DataFrame) -> Table:
    left = ("column", "value", "R", "best alone", "best mixture")
    table = _table("each objective alone against the best mixture", left, ("mixture minus alone", "seeds", "better"))
    for row in records(rows):
        at = f" ({row.others})" if row.others else ""
        table.add_row(row.target, row.value, f"{row.R:g}{at}", row.alone_at, row.mixture_at, *_difference(row))
    return table


def _differences(rows: pd.DataFrame) -> Table:
    headings = ("R", "alpha", "difference", "seeds", "better")
    table = _table("the levels of each axis, level minus base", ("axis", "level", "base", "at", "column"), headings)
    for row in records(rows):
        place = (f"{row.R:g}", alpha_label(row.alpha))
        table.add_row(row.axis, row.level, row.base, row.others, row.target, *place, *_difference(row))
    return table


def _difference(row: Any) -> tuple[str, str, str]:
    shown = with_half(row.difference, row.high - row.difference, "+.4f")
    return shown, seeds_label(row.seeds), row.better or "cannot tell"
