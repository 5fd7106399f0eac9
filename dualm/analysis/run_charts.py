"""What the runs themselves show, as charts: loss during training, and what repeated data is worth."""

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
    alpha_label,
    groups,
    numbers,
    present,
    range_label,
    records,
    repetition_axis,
    tokens_label,
)
from dualm.analysis.overfitting import curve
from dualm.analysis.scaling import ScalingFit
from dualm.evaluation.readings import READINGS, Reading

ENDS: dict[float, Dash] = {0.0: "dot", 1.0: "dash"}  # pure objectives among the mixtures
DECADES = range(-1, 5)  # of R_D*, that the panel shows


def curves(table: pd.DataFrame, overfitting: pd.DataFrame, reading: Reading) -> Chart:
    """One panel per R, all on the same scale; what leaves it at the top is far worse than the rest."""
    runs = overfitting[overfitting["reading"] == reading.key]
    ends = np.concatenate([runs["loss_least"], runs["loss_last"]])
    floor, most, all_but_the_worst = (float(np.quantile(ends, share)) for share in (0, 1, 0.85))
    top = min(most, floor + 2.5 * (all_but_the_worst - floor))
    margin = max(0.01, 0.05 * (top - floor))
    height = Axis(f"{reading.loss}, nats/token", span=(floor - margin, top + margin))
    unit, scale = _token_unit(max(numbers(table["tokens"])))
    length = Axis(f"trained tokens, {unit}", span=(0, 1.03 * max(numbers(table["tokens"])) / scale))
    return Chart(
        f"curves-{reading.key}",
        "Validation loss during training",
        f"One panel per number of repetitions, one line per run, in the {reading.title}. A disc marks the least loss of each "
        "run; it is large where the run overfits, and the thick line is then the stretch that cannot be told from it. Lines "
        "that leave at the top are far worse than the rest.",
        tuple(
            Panel(
                f"R = {repetitions:g}, {range_label(_unique(table, repetitions))} unique tokens",
                length,
                height,
                tuple(
                    mark
                    for alpha, group in groups(rows, "alpha")
                    for row in records(group)
                    for mark in _curve(curve(table, str(row.run), reading.key), row, alpha, scale)
                ),
            )
            for repetitions, rows in groups(runs, "R")
        ),
        group="curves",
        tab=reading.title,
    )


def _token_unit(most: float) -> tuple[str, float]:
    return ("billions", 1e9) if most >= 2e9 else ("millions", 1e6)


def _unique(table: pd.DataFrame, repetitions: float) -> list[float]:
    return numbers(table["unique_tokens"][table["R"] == repetitions])


def _curve(points: pd.DataFrame, run: Any, alpha: float, scale: float) -> Iterator[Series]:
    """The line of one run; `run` is its row of the overfitting table."""
    name, colour = f"α = {alpha_label(alpha)}", alpha_colour(alpha)
    yield Series(
        name,
        (points["tokens"] / scale).tolist(),
        points["loss"].round(4).tolist(),
        colour,
        rank=alpha,
        dash=ENDS.get(alpha, "solid"),
        hover=[
            f"<b>{name}, R = {run.R}</b><br>{tokens_label(row.tokens)} tokens, epoch {row.epochs:.3g}<br>"
            f"{row.loss:.3f} ± {row.se:.3f} nats/token"
            for row in records(points)
        ],
    )
    if run.overfits:
        stretch = [run.tokens_low / scale, run.tokens_high / scale]
        yield Series(name, stretch, [run.loss_least] * 2, colour, dash="solid", width=5, rank=alpha)
    yield Series(
        name,
        [run.tokens_least / scale],
        [run.loss_least],
        colour,
        marker="circle",
        size=10 if run.overfits else 6,
        rank=alpha,
        hover=[
            f"<b>{name}, R = {run.R}: least {run.loss_least:.3f}</b><br>at {tokens_label(run.tokens_least)} tokens "
            f"({tokens_label(run.tokens_low)} to {tokens_label(run.tokens_high)}), epoch {run.epochs_least:.3g}<br>"
            f"then + {run.gap:.3f} ± {run.gap_se:.3f} to the end"
        ],
    )


def scaling(table: pd.DataFrame, fits: Sequence[ScalingFit]) -> Chart:
    readings = present({fit.reading for fit in fits})
    panels = [_fit_panel(table, [fit for fit in fits if fit.reading == look.key], look) for look in readings]
    return Chart(
        "scaling",
        "What repeated data is worth",
        "Points: least loss of each run; lines: the fit of data-constrained scaling, in which repeated tokens count "
        "for less and less: R_D* is the number of repetitions after which a token has given most of what it has. Last "
        "panel: the 90 % interval of R_D*, with a point where these runs decide it, and stars at the published values.",
        (*panels, _half_lives(fits)),
    )


def _fit_colour(table: pd.DataFrame, points: pd.DataFrame) -> str:
    """That of the runs' alpha, if they share one."""
    alphas = sorted(set(numbers(table["alpha"][table["run"].isin(set(points["run"]))])))
    return alpha_colour(alphas[0]) if len(alphas) == 1 else INK


def _fit_panel(table: pd.DataFrame, fits: Sequence[ScalingFit], reading: Reading) -> Panel:
    marks = []
    for fit in fits:
        points = fit.points.sort_values("E")
        x, colour = numbers(np.log2(points["E"])), _fit_colour(table, points)
        marks += [
            Series("", x, points["fitted"].tolist(), colour, dash="solid"),
            Series(
                _name(fit),
                x,
                points["loss"].tolist(),
                colour,
                marker=reading.marker,
                hover=[
                    f"<b>{_name(fit)}, {row.E:.3g} epochs</b><br>{tokens_label(row.U)} unique tokens, worth "
                    f"{tokens_label(row.effective)}<br>loss {row.loss:.3f}, fitted {row.fitted:.3f} nats/token"
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
        look = READINGS[fit.reading]
        hover = [f"<b>{_name(fit)}, {look.title}</b><br>R_D* {fit.told}"] * 2
        ends = [_decade(fit.half_life_low), _decade(fit.half_life_high)]
        marks.append(Series("", ends, [n, n], look.colour, dash="solid", width=4, hover=hover))
        if fit.determined == "yes":
            point = [_decade(fit.half_life)]
            marks.append(Series("", point, [n], look.colour, marker=look.marker, size=10, hover=hover[:1]))
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
    """log10, at most one step beyond the axis: an interval that has no end runs out of the panel."""
    return min(DECADES[-1] + 1.0, max(DECADES[0] - 1.0, math.log10(max(half_life, 1e-9))))
