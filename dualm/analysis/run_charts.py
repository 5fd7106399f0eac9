"""Charts of the runs: the loss during training, and the value of repeated data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dualm.analysis.charts import (
    INK,
    RULE,
    Axis,
    Chart,
    Dash,
    Panel,
    Series,
    alpha_colour,
    by_value,
    numbers,
    present,
    range_label,
    records,
    repetition_axis,
)
from dualm.analysis.overfitting import mean_curves, merged
from dualm.analysis.replicates import cells, seeds_label, with_half
from dualm.analysis.scaling import ScalingFit
from dualm.evaluation.readings import READINGS, Reading
from dualm.sweep.labels import alpha_label, count_label

ENDS: dict[float, Dash] = {0.0: "dot", 1.0: "dash"}  # the runs with one objective only, among the mixtures
DECADES = range(-1, 5)  # of R_D*, shown in the panel


def curves(table: pd.DataFrame, overfitting: pd.DataFrame, reading: Reading) -> Chart:
    """One panel per R, all with the same axes. A loss above the panel is far worse than the others.

    Runs that differ in the seed alone are one line, their mean, with its 95 % interval as a band.
    """
    table = table[table["finished"].astype(bool)]
    found, drawn = merged(overfitting, table), mean_curves(table, cells(table), reading.key)
    runs = found[found["reading"] == reading.key]
    ends = np.concatenate([runs["loss_least"], runs["loss_last"]])
    lowest, highest, typical = (float(np.quantile(ends, share)) for share in (0, 1, 0.85))
    top = min(highest, lowest + 2.5 * (typical - lowest))
    margin = max(0.01, 0.05 * (top - lowest))
    height = Axis(f"{reading.loss}, nats/token", span=(lowest - margin, top + margin))
    unit, scale = _token_unit(max(numbers(table["tokens"])))
    length = Axis(f"trained tokens, {unit}", span=(0, 1.03 * max(numbers(table["tokens"])) / scale))
    several = " Several seeds of one point are one line, their mean, with its 95 % interval as a band."
    return Chart(
        f"curves-{reading.key}",
        "Validation loss during training",
        f"Validation loss in the {reading.title}: one panel per number of repetitions R, one line per run. A disc marks the "
        "lowest loss of each run. A large disc marks a run that overfits; its thick line spans the validations that do not "
        "differ significantly from the lowest. Lines that leave a panel at the top are far worse than the others."
        + (several if runs["seeds"].max() > 1 else ""),
        tuple(
            Panel(
                f"R = {repetitions:g}, {range_label(_unique(table, repetitions))} unique tokens",
                length,
                height,
                tuple(
                    mark
                    for alpha, group in by_value(rows, "alpha")
                    for row in records(group)
                    for mark in _curve(drawn[row.run], row, alpha, scale)
                ),
            )
            for repetitions, rows in by_value(runs, "R")
        ),
        group="curves",
        tab=reading.title,
    )


def _token_unit(largest: float) -> tuple[str, float]:
    return ("billions", 1e9) if largest >= 2e9 else ("millions", 1e6)


def _unique(table: pd.DataFrame, repetitions: float) -> list[float]:
    return numbers(table["unique_tokens"][table["R"] == repetitions])


def _curve(points: pd.DataFrame, run: Any, alpha: float, scale: float) -> Iterator[Series]:
    """The line of one run, or of the mean over its seeds; `run` is its row of the merged overfitting table."""
    name, colour = f"α = {alpha_label(alpha)}", alpha_colour(alpha)
    several = run.seeds > 1
    yield Series(
        name,
        (points["tokens"] / scale).tolist(),
        points["loss"].round(4).tolist(),
        colour,
        rank=alpha,
        dash=ENDS.get(alpha, "solid"),
        low=(points["loss"] - points["loss_half"]).round(4).tolist() if several else None,
        high=(points["loss"] + points["loss_half"]).round(4).tolist() if several else None,
        hover=[
            f"<b>{name}, R = {run.R}</b><br>{count_label(row.tokens)} tokens, epoch {row.epochs:.3g}<br>"
            + (
                f"{with_half(row.loss, row.loss_half)} nats/token, {seeds_label(run.seeds)}"
                if several
                else f"{row.loss:.3f} ± {row.se:.3f} nats/token"
            )
            for row in records(points)
        ],
    )
    if run.overfits:
        span = [run.tokens_low / scale, run.tokens_high / scale]
        yield Series(name, span, [run.loss_least] * 2, colour, dash="solid", width=5, rank=alpha)
    yield Series(
        name,
        [run.tokens_least / scale],
        [run.loss_least],
        colour,
        marker="circle",
        size=10 if run.overfits else 6,
        rank=alpha,
        hover=[
            f"<b>{name}, R = {run.R}: lowest {run.loss_least:.3f}</b><br>at {count_label(run.tokens_least)} tokens "
            f"({count_label(run.tokens_low)} to {count_label(run.tokens_high)}), epoch {run.epochs_least:.3g}<br>"
            f"at the end {with_half(run.gap, run.gap_half if several else run.gap_se)} higher, {seeds_label(run.seeds)}"
        ],
    )


def scaling(fits: Sequence[ScalingFit]) -> Chart:
    readings = present({fit.reading for fit in fits})
    panels = [_fit_panel([fit for fit in fits if fit.reading == each.key], each) for each in readings]
    return Chart(
        "scaling",
        "The value of repeated data",
        "Points: the lowest validation loss of each run, or the mean over its seeds with its 95 % interval. Lines: the fitted data-constrained scaling law, in which each "
        "further repetition of a token is worth less. R_D* is the number of repetitions after which most of the value of a "
        "token is used up. Last panel: the 90 % confidence interval of R_D*, with a point if these runs determine it. Stars: "
        "published values.",
        (*panels, _half_lives(fits)),
    )


def _fit_colour(points: pd.DataFrame) -> str:
    """The colour of alpha, if all runs have the same."""
    alphas = sorted(set(numbers(points["alpha"])))
    return alpha_colour(alphas[0]) if len(alphas) == 1 else INK


def _fit_panel(fits: Sequence[ScalingFit], reading: Reading) -> Panel:
    marks = []
    for fit in fits:
        points = fit.points.sort_values("E")
        x, colour = numbers(np.log2(points["E"])), _fit_colour(points)
        marks += [
            Series("", x, points["fitted"].tolist(), colour, dash="solid"),
            Series(
                _name(fit),
                x,
                points["loss"].tolist(),
                colour,
                marker=reading.marker,
                low=numbers(points["loss"] - points["loss_half"].fillna(0)) if points["seeds"].max() > 1 else None,
                high=numbers(points["loss"] + points["loss_half"].fillna(0)) if points["seeds"].max() > 1 else None,
                hover=[
                    f"<b>{_name(fit)}, {row.E:.3g} epochs</b><br>{count_label(row.U)} unique tokens, worth "
                    f"{count_label(row.effective)}<br>loss {with_half(row.loss, row.loss_half)}, fitted {row.fitted:.3f} nats/token"
                    for row in records(points)
                ],
            ),
        ]
    epochs = sorted({2.0 ** round(math.log2(value)) for fit in fits for value in fit.points["E"]})
    ticks = repetition_axis(epochs, 0.3)
    return Panel(
        reading.title,
        Axis("epochs over the unique tokens", ticks.ticks, ticks.span),
        Axis(f"{reading.loss}, nats/token"),
        tuple(marks),
    )


def _name(fit: ScalingFit) -> str:
    return fit.group.replace("alpha", "α").removesuffix(" at each R")


def _half_lives(fits: Sequence[ScalingFit]) -> Panel:
    marks = []
    for n, fit in enumerate(reversed(fits)):
        reading = READINGS[fit.reading]
        hover = [f"<b>{_name(fit)}, {reading.title}</b><br>R_D* {fit.half_life_label}"] * 2
        ends = [_decade(fit.half_life_low), _decade(fit.half_life_high)]
        marks.append(Series("", ends, [n, n], reading.colour, dash="solid", width=4, hover=hover))
        if fit.determined == "yes":
            point = [_decade(fit.half_life)]
            marks.append(Series("", point, [n], reading.colour, marker=reading.marker, size=10, hover=hover[:1]))
        if fit.published:
            note = f"published: {fit.published:g}"
            marks.append(Series("", [_decade(fit.published)], [n], RULE, marker="star", size=12, hover=[note]))
    rows = tuple((float(n), _name(fit)) for n, fit in enumerate(reversed(fits)))
    ticks = tuple((float(power), f"{10.0**power:g}") for power in DECADES[::2])
    return Panel(
        "R_D* of each group",
        Axis("R_D*, repetitions beyond the first", ticks, (DECADES[0] - 0.1, DECADES[-1] + 0.1)),
        Axis("", rows, (-0.6, len(rows) - 0.4)),
        tuple(marks),
    )


def _decade(half_life: float) -> float:
    """log10, limited to one decade beyond the axis, so that an interval without an end leaves the panel."""
    return min(DECADES[-1] + 1.0, max(DECADES[0] - 1.0, math.log10(max(half_life, 1e-9))))
