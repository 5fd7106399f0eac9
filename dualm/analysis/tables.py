"""The summary that `dualm analyze` prints."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dualm.analysis.analyze import Analysis
from dualm.analysis.charts import budget_label
from dualm.analysis.isoflop import IsoFlopFit
from dualm.analysis.isoflop_charts import with_interval
from dualm.analysis.surface import Surface
from dualm.sweep.labels import count_label

COLOURS = {"shows": "green", "does not show": "red", "cannot tell": "yellow"}


def summary(analysis: Analysis) -> RenderableType:
    """Findings, the best ratio of each surface, scaling, the runs that overfit, and what was left out."""
    parts: list[RenderableType] = [_findings(analysis)] if analysis.findings else []
    parts += [_best(analysis.surfaces[name], best) for name, best in analysis.best.items()]
    if analysis.scaling:
        parts.append(_scaling(analysis))
    parts += map(_isoflop, analysis.isoflop)
    if analysis.gap:
        parts.append(Text(f"compute gap: {analysis.gap.statement}\n"))
    parts.append(_overfitting(analysis.overfitting))
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
    for finding in analysis.findings:
        table.add_row(Text(f"({finding.key}) {finding.claim}", "bold"), Text(finding.verdict, COLOURS[finding.verdict]))
        for part in finding.parts:
            table.add_row(Text(f"    {part.statement}"), Text(part.verdict, "dim"))
    return table


def _best(surface: Surface, best: pd.DataFrame) -> RenderableType:
    check = surface.leave_one_out()
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
    counts = f"{int(rises['overfits'].sum())} of {len(rises)} runs and readings overfit"
    table = _table(counts, ("run", "reading"), ("lowest", "at epoch", "last", "gap", "± s.e."))
    for row in rises[rises["overfits"]].sort_values("gap", ascending=False).to_dict("records"):
        numbers = (f"{row[name]:.3f}" for name in ("loss_last", "gap", "gap_se"))
        table.add_row(row["run"], row["reading"], f"{row['loss_least']:.3f}", f"{row['epochs_least']:.3g}", *numbers)
    return table
