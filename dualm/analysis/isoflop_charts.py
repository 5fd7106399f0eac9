"""Charts of scaling with compute: the iso-FLOP profiles with their minima, and the power laws through these."""

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
)
from dualm.analysis.isoflop import IsoFlopFit, Profile
from dualm.analysis.power_laws import ComputeGap
from dualm.evaluation.readings import READINGS, Reading
from dualm.sweep.labels import count_label

GRID = 41  # points of a drawn curve
LARGEST = 0.85  # of the colour scale: its light end is invisible on white


def profiles(fits: Sequence[IsoFlopFit]) -> Chart:
    budgets = sorted({float(budget_label(profile.flops)) for fit in fits for profile in fit.profiles})
    ranks = {budget_label(budget): n / max(1, len(budgets) - 1) for n, budget in enumerate(budgets)}
    return Chart(
        "isoflop",
        "The best size at equal compute",
        "Iso-FLOP profiles. Points: the last validation loss of each run. Lines: a parabola through the runs of one budget "
        "of training FLOPs. Diamonds: its minimum, with the 90 % confidence intervals of size and loss. A budget without a "
        "diamond has its lowest loss at the smallest or the largest size tried.",
        tuple(_profiles_panel(fit, ranks) for fit in fits),
        columns=2,
    )


def _profiles_panel(fit: IsoFlopFit, ranks: dict[str, float]) -> Panel:
    reading = READINGS[fit.reading]
    marks = tuple(
        mark for profile in fit.profiles for mark in _profile(profile, reading, ranks[budget_label(profile.flops)])
    )
    sizes = [size for profile in fit.profiles for size in numbers(profile.points["N"])]
    return Panel(
        fit.group.replace("alpha", "α"),
        _log_axis("parameters N", sizes, count_label),
        Axis(f"{reading.loss}, nats/token"),
        marks,
    )


def _profile(profile: Profile, reading: Reading, rank: float) -> Iterator[Series]:
    colour = to_hex(colormaps["viridis"](LARGEST * rank))
    name, points = f"{budget_label(profile.flops)} FLOPs", profile.points
    x = np.linspace(np.log(points["N"].min()), np.log(points["N"].max()), GRID)
    yield Series(
        name, numbers(x / math.log(10)), numbers(np.polyval(profile.curve, x)), colour, dash="solid", rank=rank
    )
    yield Series(
        "",
        numbers(np.log10(points["N"])),
        numbers(points["loss"]),
        colour,
        marker=reading.marker,
        hover=[
            f"<b>{count_label(row.N)} parameters, {name}</b><br>{count_label(row.D)} tokens, {row.D / row.N:.3g} per parameter"
            f"<br>{row.loss:.3f} nats/token"
            for row in records(points)
        ],
    )
    if profile.is_inside:
        yield from _minimum(profile, name)


def _minimum(profile: Profile, name: str) -> Iterator[Series]:
    """The minimum of a profile, with its intervals in both directions."""
    best, known = profile.best, profile.has_intervals
    if known:
        ends = [math.log10(profile.low["N"]), math.log10(profile.high["N"])]
        yield Series("", ends, [best["loss"]] * 2, INK, dash="solid", width=1.4)
    yield Series(
        "",
        [math.log10(best["N"])],
        [best["loss"]],
        INK,
        marker="diamond",
        size=9,
        low=[profile.low["loss"]] if known else None,
        high=[profile.high["loss"]] if known else None,
        hover=[
            f"<b>{name}: best size {with_interval(profile, 'N', count_label)}</b><br>on {count_label(best['D'])} tokens; "
            f"loss {with_interval(profile, 'loss', '{:.3f}'.format)}"
        ],
    )


def with_interval(profile: Profile, quantity: str, label: Callable[[float], str]) -> str:
    """The label of a quantity at the minimum, with its interval."""
    return interval_label(profile.best[quantity], profile.low[quantity], profile.high[quantity], label)


def laws(fits: Sequence[IsoFlopFit], gap: ComputeGap | None) -> Chart:
    """The power laws of `fits`, all of which have laws."""
    added = f" Compute gap: {gap.statement}." if gap else ""
    return Chart(
        "isoflop-laws",
        "How size, tokens and loss grow with compute",
        f"Points: minima of the iso-FLOP profiles, with 90 % confidence intervals. Lines: power laws through them.{added}",
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
        reading, law = READINGS[fit.reading], fit.laws[quantity]
        inside = [profile for profile in fit.profiles if profile.is_inside]
        flops = [profile.flops for profile in inside]
        line = np.geomspace(min(flops), max(flops), GRID)
        best = [profile.best[quantity] for profile in inside]
        known = inside[0].has_intervals  # all profiles of a fit have intervals, or none
        name = fit.group.replace("alpha", "α")
        marks += [
            Series("", numbers(np.log10(line)), list(map(height, law.at(line))), reading.colour, dash="solid"),
            Series(
                name,
                numbers(np.log10(flops)),
                list(map(height, best)),
                reading.colour,
                marker=reading.marker,
                low=[height(profile.low[quantity]) for profile in inside] if known else None,
                high=[height(profile.high[quantity]) for profile in inside] if known else None,
                hover=[
                    f"<b>{name}, {budget_label(budget)} FLOPs</b><br>{title}: {value:.4g}<br>{law.form}, p = {law.exponent_label}"
                    for budget, value in zip(flops, best, strict=True)
                ],
            ),
        ]
        budgets += flops
        values += best
    vertical = Axis("loss, nats/token") if quantity == "loss" else _log_axis(title.split()[1], values, count_label)
    return Panel(title, _log_axis("training FLOPs C", budgets, budget_label), vertical, tuple(marks))


def _log_axis(title: str, values: Sequence[float], label: Callable[[float], str]) -> Axis:
    """An axis of log10 with labels at 1, 2 and 5 times powers of ten; over more than two decades, only at the powers."""
    low, high = min(values), max(values)
    steps = (1, 2, 5) if high < 100 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return Axis(title, tuple((math.log10(tick), label(tick)) for tick in ticks if low / 1.1 <= tick <= 1.1 * high))
