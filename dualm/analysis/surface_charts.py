"""Charts of the fitted surface: the best ratio, the surface itself, and the uncertainty of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

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
    alpha_position,
    by_value,
    colour,
    marker,
    numbers,
    records,
    repetition_axis,
)
from dualm.analysis.replicates import seeds_label
from dualm.analysis.surface import Surface, unite
from dualm.analysis.table import Target, family_title
from dualm.sweep.labels import alpha_label

SPARSE = (0, 1 / 64, 1 / 8, 1 / 2, 63 / 64, 1)  # ratios whose labels fit side by side on a phone
GRID = 41, 49  # of the heat map, repetitions by alphas
RULE_NAME = "published rule: 63/64 up to R = 16, then 16/R"
MIN_EXPOSURES = 1 / 16  # smaller numbers are drawn here, because 0 has no logarithm


def best_alpha(best: Mapping[str, pd.DataFrame]) -> Chart:
    """The best ratio of every target of one family, by name."""
    named = {Target.named(name): table for name, table in best.items()}
    ratio = [_interval(table, target, n, "alpha", alpha_position) for n, (target, table) in enumerate(named.items())]
    counts = [_interval(table, target, n, "exposures", _log) for n, (target, table) in enumerate(named.items())]
    first, rule = next(iter(named.items()))
    of = f", {family_title(first.family)}" if first.higher_is_better else ""
    repetitions = repetition_axis(numbers(rule["R"]), 0.4)
    by_ratio, by_count = (
        Series(RULE_NAME, numbers(np.log2(rule["R"])), [position(value) for value in rule[column]], RULE, dash="dash")
        for column, position in (("published_alpha", alpha_position), ("published_exposures", _log))
    )
    powers = range(int(_log(0)) + 1, math.ceil(_log(max(rule["R"]))) + 1)
    ticks = [(_log(0), f"≤ {alpha_label(MIN_EXPOSURES)}"), *((float(n), alpha_label(2.0**n)) for n in powers)]
    exposures = Axis("AR exposures α·R of each token", tuple(ticks))
    return Chart(
        "best-alpha",
        "The best ratio at each number of repetitions",
        "Points: the ratio α with the best posterior median. Bars: 90 % credible intervals. Right: the same as AR exposures "
        "α·R, the number of times that each token is trained with the AR objective. The published rule limits it to 16.",
        (
            Panel(f"Best AR ratio{of}", repetitions, alpha_axis(), (by_ratio, *ratio)),
            Panel("AR exposures at the best ratio", repetitions, exposures, (by_count, *counts)),
        ),
        columns=2,
    )


def _log(count: float) -> float:
    """log2 of a number of exposures."""
    return math.log2(max(count, MIN_EXPOSURES))


def _interval(best: pd.DataFrame, target: Target, n: int, column: str, position: Callable[[float], float]) -> Series:
    """The best ratio of one target with its interval, shifted a little so that targets do not overlap."""
    bounds = ("low", "high") if column == "alpha" else ("exposures_low", "exposures_high")
    return Series(
        f"{target.reading} mode" if target.higher_is_better else target.title,
        numbers(np.log2(best["R"]) + 0.14 * (n - 1)),
        [position(value) for value in best[column]],
        colour(target),
        marker=marker(target),
        size=9,
        low=[position(value) for value in best[bounds[0]]],
        high=[position(value) for value in best[bounds[1]]],
        hover=[
            f"<b>{target.title}, R = {row.R:g}</b><br>best α {alpha_label(row.alpha)} (90 %: {alpha_label(row.low)} to "
            f"{alpha_label(row.high)})<br>{row.exposures:.3g} AR exposures ({row.exposures_low:.3g} to "
            f"{row.exposures_high:.3g})<br>fitted {row.value:.3f}"
            for row in records(best)
        ],
    )


def surface(surfaces: Mapping[str, Surface], best: Mapping[str, pd.DataFrame]) -> Chart:
    return Chart(
        "surface",
        "The fitted surface and its runs",
        "Background: posterior median of the Gaussian process surface of the last values. Circles: the runs, or the means over their "
        "seeds, in the same colours; a circle that stands out differs from the fit. Dark is good. All values far worse than the others share "
        "one colour.",
        tuple(_surface_panel(name, surface, best[name]) for name, surface in surfaces.items()),
    )


def _surface_panel(name: str, surface: Surface, best: pd.DataFrame) -> Panel:
    runs = surface.points
    heat = _heat(surface)
    positions = numbers(np.log2(runs["R"])), [alpha_position(alpha) for alpha in runs["alpha"]]
    rims = Series("", *positions, INK, marker="circle", size=11)  # without a rim a circle is lost on a light ground
    points = Series(
        "",
        *positions,
        INK,
        marker="circle",
        size=9,
        values=runs["value"].tolist(),
        hover=[
            f"<b>run at R = {row.R:g}, α = {alpha_label(row.alpha)}</b><br>{row.value:.3f} {heat.label}{_spread(row)}"
            for row in records(runs)
        ],
    )
    ridge = Series(
        "best ratio at each R",
        numbers(np.log2(best["R"])),
        [alpha_position(alpha) for alpha in best["alpha"]],
        INK,
        marker="diamond",
        size=9,
        hover=[f"<b>best at R = {row.R:g}</b><br>α {alpha_label(row.alpha)}" for row in records(best)],
    )
    axis = repetition_axis(sorted(runs["R"].unique()), 0.3)
    return Panel(Target.named(name).title, axis, alpha_axis(), (heat, rims, points, ridge))


def _spread(point: Any) -> str:
    """The interval over the seeds of a point, if it has several."""
    seeds = getattr(point, "seeds", 1)
    return f" ± {point.value_half:.3f}, {seeds_label(seeds)}" if seeds > 1 else ""


def _heat(surface: Surface) -> Heat:
    """The posterior median over the range of the runs; the hover texts add its 90 % credible interval."""
    repetitions = np.log2(surface.points["R"])
    x = np.linspace(repetitions.min(), repetitions.max(), GRID[0])
    y = np.linspace(alpha_position(0), alpha_position(1), GRID[1])
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
    z = median.round(4).tolist()
    return Heat(x.tolist(), y.tolist(), z, surface.target.unit, span, hover, surface.higher_is_better)


def probability(probabilities: Mapping[str, pd.DataFrame]) -> Chart:
    return Chart(
        "probability",
        "The probability that a ratio is the best",
        "The height over each ratio is the posterior probability that it is the best of those shown, at each number of "
        "repetitions. A single peak: these runs determine the best ratio. A flat line: the ratios are about equally good, or "
        "more runs are needed.",
        tuple(_ridges(name, table) for name, table in probabilities.items()),
    )


def _ridges(name: str, table: pd.DataFrame) -> Panel:
    colour_of_all = colour(Target.named(name))
    alphas = numbers(table.columns)
    x = [alpha_position(alpha) for alpha in alphas]
    tallest = table.to_numpy().max()
    ridges = tuple(
        Series(
            "",
            x,
            [n + 0.92 * value / tallest for value in row],
            colour_of_all,
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
    return Panel(f"{Target.named(name).title} (tallest: {100 * tallest:.0f} %)", alpha_axis(SPARSE), rows, ridges)


def left_out(surfaces: Mapping[str, Surface]) -> Chart:
    return Chart(
        "left-out",
        "Does the surface predict runs that it has not seen?",
        "Leave-one-out check: each run, or the mean over its seeds, against its prediction from all others, with 95 % intervals. On the line the "
        "prediction is exact.",
        tuple(_left_out_panel(name, surface) for name, surface in surfaces.items()),
    )


def _left_out_panel(name: str, surface: Surface) -> Panel:
    check = surface.leave_one_out
    runs = check.points
    unit = surface.target.unit
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
                f"predicted {row.predicted:.3f} ({row.low:.3f} to {row.high:.3f})"
                for row in records(group)
            ],
        )
        for alpha, group in by_value(runs, "alpha")
    ]
    title = f"{Target.named(name).title}: R² {check.r2:.2f}, typical error {check.typical_error:.3f}"
    line = Series("", ends, ends, RULE, dash="dot", width=1.2)
    return Panel(title, Axis(f"measured, {unit}"), Axis(f"predicted, {unit}"), (line, *points))
