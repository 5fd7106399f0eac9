"""What the fitted surface says, as charts: the best ratio, the surface, how sure both are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from dualm.analysis.charts import (
    INK,
    RULE,
    Axis,
    Chart,
    Heat,
    Panel,
    Series,
    alpha_axis,
    alpha_colour,
    alpha_label,
    alpha_place,
    groups,
    numbers,
    records,
    repetition_axis,
)
from dualm.analysis.surface import Surface, unite
from dualm.evaluation.readings import DRAWN, Reading

SPARSE = (0, 1 / 64, 1 / 8, 1 / 2, 63 / 64, 1)  # labels of alpha that fit side by side on a phone
GRID = 41, 49  # of the heat map, repetitions by alphas
RULE_NAME = "published rule: 63/64 up to R = 16, then 16/R"
FEWEST_EXPOSURES = 1 / 16  # those below are drawn here: 0 has no logarithm


def _title(name: str) -> str:
    """Of a surface: a reading's own, or `blimp, ar mode` for a task."""
    named = {reading.key: reading.title for reading in DRAWN}
    return named.get(name) or "{}, {} mode".format(*name.split("/"))


def best_alpha(best: Mapping[Reading, pd.DataFrame]) -> Chart:
    ratio = [_interval(table, reading, n, "alpha", alpha_place) for n, (reading, table) in enumerate(best.items())]
    counts = [_interval(table, reading, n, "exposures", _log) for n, (reading, table) in enumerate(best.items())]
    rule = next(iter(best.values()))
    repetitions = repetition_axis(numbers(rule["R"]), 0.4)
    by_ratio, by_count = (
        Series(RULE_NAME, numbers(np.log2(rule["R"])), [place(value) for value in rule[column]], RULE, dash="dash")
        for column, place in (("published_alpha", alpha_place), ("published_exposures", _log))
    )
    powers = range(int(_log(0)) + 1, math.ceil(_log(max(rule["R"]))) + 1)
    ticks = [(_log(0), f"≤ {alpha_label(FEWEST_EXPOSURES)}"), *((float(n), alpha_label(2.0**n)) for n in powers)]
    exposures = Axis("AR exposures α·R of each token", tuple(ticks))
    return Chart(
        "best-alpha",
        "The best ratio at each number of repetitions",
        "Points: the ratio with the best fitted loss; bars: 90 % of the posterior. Right: the same as the number of times "
        "that a token is trained on autoregressively. The published rule keeps that number at 16 at most.",
        (
            Panel("Best AR ratio", repetitions, alpha_axis(), (by_ratio, *ratio)),
            Panel("AR exposures at the best ratio", repetitions, exposures, (by_count, *counts)),
        ),
        columns=2,
    )


def _log(count: float) -> float:
    """log2 of a number of exposures."""
    return math.log2(max(count, FEWEST_EXPOSURES))


def _interval(best: pd.DataFrame, reading: Reading, n: int, column: str, place: Callable[[float], float]) -> Series:
    """One reading's best with its interval, a little beside the other readings'."""
    bounds = ("low", "high") if column == "alpha" else ("exposures_low", "exposures_high")
    return Series(
        reading.title,
        numbers(np.log2(best["R"]) + 0.14 * (n - 1)),
        [place(value) for value in best[column]],
        reading.colour,
        marker=reading.marker,
        size=9,
        low=[place(value) for value in best[bounds[0]]],
        high=[place(value) for value in best[bounds[1]]],
        hover=[
            f"<b>{reading.title}, R = {row.R:g}</b><br>best α {alpha_label(row.alpha)} (90 %: {alpha_label(row.low)} to "
            f"{alpha_label(row.high)})<br>{row.exposures:.3g} AR exposures ({row.exposures_low:.3g} to "
            f"{row.exposures_high:.3g})<br>fitted {row.value:.3f}"
            for row in records(best)
        ],
    )


def surface(surfaces: Mapping[str, Surface], best: Mapping[str, pd.DataFrame]) -> Chart:
    return Chart(
        "surface",
        "The fitted surface and the runs it is fitted to",
        "Background: median of the Gaussian process at the end of training; circles: the runs, on the same scale of colour, "
        "so that one that stands out differs from the fit. Dark is good; what is far worse than the rest shares one colour.",
        tuple(_surface_panel(name, surface, best[name]) for name, surface in surfaces.items()),
    )


def _surface_panel(name: str, surface: Surface, best: pd.DataFrame) -> Panel:
    runs = surface.points
    x = np.linspace(np.log2(runs["R"].min()), np.log2(runs["R"].max()), GRID[0])
    y = np.linspace(alpha_place(0), alpha_place(1), GRID[1])
    alphas = unite(y)
    fitted = surface.predict(2**x, alphas)
    median, low, high = (
        fitted.pivot(index="alpha", columns="R", values=key).to_numpy() for key in ("median", "low", "high")
    )
    hover = [
        [
            f"R = {2 ** x[j]:.3g}, α = {alphas[i]:.3g}<br>fitted {median[i, j]:.3f} ({low[i, j]:.3f} to {high[i, j]:.3f})"
            for j in range(len(x))
        ]
        for i in range(len(y))
    ]
    good, bad = (0.15, 1.0) if surface.higher_is_better else (0.0, 0.85)
    span = float(np.quantile(median, good)), float(np.quantile(median, bad))
    unit = "score" if surface.higher_is_better else "nats/token"
    heat = Heat(x.tolist(), y.tolist(), median.round(4).tolist(), unit, span, hover, surface.higher_is_better)
    where = numbers(np.log2(runs["R"])), [alpha_place(alpha) for alpha in runs["alpha"]]
    rims = Series("", *where, INK, marker="circle", size=11)  # without it a circle is lost on a light ground
    points = Series(
        "",
        *where,
        INK,
        marker="circle",
        size=9,
        values=runs["value"].tolist(),
        hover=[
            f"<b>run at R = {row.R:g}, α = {alpha_label(row.alpha)}</b><br>{row.value:.3f} {unit}"
            for row in records(runs)
        ],
    )
    ridge = Series(
        "best ratio at each R",
        numbers(np.log2(best["R"])),
        [alpha_place(alpha) for alpha in best["alpha"]],
        INK,
        marker="diamond",
        size=9,
        hover=[f"<b>best at R = {row.R:g}</b><br>α {alpha_label(row.alpha)}" for row in records(best)],
    )
    axis = repetition_axis(sorted(runs["R"].unique()), 0.3)
    return Panel(_title(name), axis, alpha_axis(), (heat, rims, points, ridge))


def probability(probabilities: Mapping[str, pd.DataFrame]) -> Chart:
    return Chart(
        "probability",
        "How sure the best ratio is",
        "The height over each ratio is the probability that it is the best of those shown, at that number of repetitions, "
        "given the runs. A single peak: settled; a plain: any of these will do, or more runs are needed.",
        tuple(_ridges(name, table) for name, table in probabilities.items()),
    )


def _ridges(name: str, table: pd.DataFrame) -> Panel:
    colour = {reading.key: reading.colour for reading in DRAWN}.get(name, INK)
    alphas = numbers(table.columns)
    x = [alpha_place(alpha) for alpha in alphas]
    tallest = table.to_numpy().max()
    ridges = tuple(
        Series(
            "",
            x,
            [n + 0.92 * value / tallest for value in row],
            colour,
            dash="solid",
            low=[n] * len(x),
            high=[n + 0.92 * value / tallest for value in row],
            hover=[
                f"<b>R = {repetitions}</b><br>α = {alpha_label(alpha)}: {100 * value:.0f} %"
                for alpha, value in zip(alphas, row, strict=True)
            ],
        )
        for n, (repetitions, row) in reversed(list(enumerate(zip(table.index, table.to_numpy(), strict=True))))
    )
    rows = Axis(
        "repetitions R", tuple((float(n), f"{r:g}") for n, r in enumerate(table.index)), (-0.1, len(table) + 0.1)
    )
    return Panel(f"{_title(name)} (tallest: {100 * tallest:.0f} %)", alpha_axis(SPARSE), rows, ridges)


def left_out(surfaces: Mapping[str, Surface]) -> Chart:
    return Chart(
        "left-out",
        "Would the surface have foretold these runs?",
        "Each run against what the surface expects of it from all the others; bars: 95 %. On the line: foretold exactly.",
        tuple(_left_out_panel(name, surface) for name, surface in surfaces.items()),
    )


def _left_out_panel(name: str, surface: Surface) -> Panel:
    check = surface.leave_one_out()
    runs = check.points
    unit = "score" if surface.higher_is_better else "nats/token"
    ends = [float(runs["value"].min()), float(runs["value"].max())]
    points = [
        Series(
            f"α = {alpha_label(alpha)}",
            group["value"].tolist(),
            group["predicted"].tolist(),
            alpha_colour(alpha),
            rank=alpha,
            marker="circle",
            low=group["low"].tolist(),
            high=group["high"].tolist(),
            hover=[
                f"<b>R = {row.R:g}, α = {alpha_label(alpha)}</b><br>measured {row.value:.3f}<br>"
                f"foretold {row.predicted:.3f} ({row.low:.3f} to {row.high:.3f})"
                for row in records(group)
            ],
        )
        for alpha, group in groups(runs, "alpha")
    ]
    title = f"{_title(name)}: R² {check.r2:.2f}, typical error {check.typical_error:.3f}"
    line = Series("", ends, ends, RULE, dash="dot", width=1.2)
    return Panel(title, Axis(f"measured, {unit}"), Axis(f"foretold, {unit}"), (line, *points))
