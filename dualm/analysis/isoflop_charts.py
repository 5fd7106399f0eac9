"""Scaling with compute, as charts: the iso-FLOP curves with their minima, and how these move with compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from dualm.analysis.charts import (
    INK,
    Axis,
    Chart,
    Panel,
    Series,
    budget_label,
    interval_label,
    numbers,
    records,
    tokens_label,
)
from dualm.analysis.isoflop import IsoFlopFit, Profile
from dualm.analysis.power_laws import ComputeGap
from dualm.evaluation.readings import READINGS, Reading

GRID = 41  # points of a drawn curve
LARGEST = 0.85  # of the colour scale: the end of it is lost on white


def profiles(fits: Sequence[IsoFlopFit]) -> Chart:
    budgets = sorted({float(budget_label(profile.flops)) for fit in fits for profile in fit.profiles})
    ranks = {budget_label(budget): n / max(1, len(budgets) - 1) for n, budget in enumerate(budgets)}
    return Chart(
        "isoflop",
        "The best size at equal compute",
        "Points: the last loss of each run; lines: a parabola through the runs of one budget of training FLOPs; diamonds: "
        "its minimum, with the 90 % interval of its place and height. A budget without a diamond has its least loss at an "
        "end of the sizes tried.",
        tuple(_profiles_panel(fit, ranks) for fit in fits),
        columns=2,
    )


def _profiles_panel(fit: IsoFlopFit, ranks: dict[str, float]) -> Panel:
    look = READINGS[fit.reading]
    marks = tuple(
        mark for profile in fit.profiles for mark in _profile(profile, look, ranks[budget_label(profile.flops)])
    )
    sizes = [size for profile in fit.profiles for size in numbers(profile.points["N"])]
    return Panel(
        fit.group.replace("alpha", "α"),
        _log_axis("parameters N", sizes, tokens_label),
        Axis(f"{look.loss}, nats/token"),
        marks,
    )


def _profile(profile: Profile, look: Reading, rank: float) -> Iterator[Series]:
    colour = to_hex(colormaps["viridis"](LARGEST * rank))
    name, points, best = f"{budget_label(profile.flops)} FLOPs", profile.points, profile.best
    x = np.linspace(np.log(points["N"].min()), np.log(points["N"].max()), GRID)
    yield Series(
        name, numbers(x / math.log(10)), numbers(np.polyval(profile.curve, x)), colour, dash="solid", rank=rank
    )
    yield Series(
        "",
        numbers(np.log10(points["N"])),
        numbers(points["loss"]),
        colour,
        marker=look.marker,
        hover=[
            f"<b>{tokens_label(row.N)} parameters, {name}</b><br>{tokens_label(row.D)} tokens, {row.D / row.N:.3g} a parameter"
            f"<br>{row.loss:.3f} nats/token"
            for row in records(points)
        ],
    )
    if profile.is_inside:
        if profile.has_intervals:
            ends = [math.log10(profile.low["N"]), math.log10(profile.high["N"])]
            yield Series("", ends, [best["loss"]] * 2, INK, dash="solid", width=1.4)
        yield Series(
            "",
            [math.log10(best["N"])],
            [best["loss"]],
            INK,
            marker="diamond",
            size=9,
            low=[profile.low["loss"]] if profile.has_intervals else None,
            high=[profile.high["loss"]] if profile.has_intervals else None,
            hover=[
                f"<b>{name}: best size {told(profile, 'N', tokens_label)}</b><br>on {tokens_label(best['D'])} tokens; loss "
                f"{told(profile, 'loss', '{:.3f}'.format)}"
            ],
        )


def told(profile: Profile, quantity: str, label: Callable[[float], str]) -> str:
    """A quantity at the minimum, with its interval."""
    return interval_label(profile.best[quantity], profile.low[quantity], profile.high[quantity], label)


def laws(fits: Sequence[IsoFlopFit], gap: ComputeGap | None) -> Chart:
    """`fits` with laws."""
    added = f" Compute gap: {gap.told}." if gap else ""
    return Chart(
        "isoflop-laws",
        "How size, tokens and loss grow with compute",
        f"Points: minima of the iso-FLOP curves, with 90 % intervals; lines: the power laws through them.{added}",
        tuple(
            _laws_panel(fits, quantity, title)
            for quantity, title in (
                ("N", "Best parameters N*"),
                ("D", "Best tokens D*"),
                ("loss", "Loss L* at the best"),
            )
        ),
    )


def _laws_panel(fits: Sequence[IsoFlopFit], quantity: str, title: str) -> Panel:
    height = float if quantity == "loss" else math.log10
    marks, budgets, values = [], [], []
    for fit in fits:
        look, law = READINGS[fit.reading], fit.laws[quantity]
        inside = [profile for profile in fit.profiles if profile.is_inside]
        flops = [profile.flops for profile in inside]
        line = np.geomspace(min(flops), max(flops), GRID)
        best = [profile.best[quantity] for profile in inside]
        known = inside[0].has_intervals  # all of a fit have them, or none
        name = fit.group.replace("alpha", "α")
        marks += [
            Series("", numbers(np.log10(line)), list(map(height, law.at(line))), look.colour, dash="solid"),
            Series(
                name,
                numbers(np.log10(flops)),
                list(map(height, best)),
                look.colour,
                marker=look.marker,
                low=[height(profile.low[quantity]) for profile in inside] if known else None,
                high=[height(profile.high[quantity]) for profile in inside] if known else None,
                hover=[
                    f"<b>{name}, {budget_label(budget)} FLOPs</b><br>{title}: {value:.4g}<br>{law.form}, p = {law.told}"
                    for budget, value in zip(flops, best, strict=True)
                ],
            ),
        ]
        budgets += flops
        values += best
    upright = Axis("loss, nats/token") if quantity == "loss" else _log_axis(title.split()[1], values, tokens_label)
    return Panel(title, _log_axis("training FLOPs C", budgets, budget_label), upright, tuple(marks))


def _log_axis(title: str, values: Sequence[float], label: Callable[[float], str]) -> Axis:
    """Of log10: labels at 1, 2 and 5 times powers of ten, at powers alone over more than two decades."""
    low, high = min(values), max(values)
    steps = (1, 2, 5) if high < 100 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return Axis(title, tuple((math.log10(tick), label(tick)) for tick in ticks if low / 1.1 <= tick <= 1.1 * high))
