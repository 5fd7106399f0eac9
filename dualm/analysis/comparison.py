"""Comparisons over seeds: the levels of an axis with each other, and each objective alone with the best mixture.

Two runs are a pair if they differ in one thing and share everything else, the seed included; all share their validation windows.
A difference is the mean over pairs, with the t interval over seeds of `replicates`. One seed gives a difference without interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dualm.analysis.axes import axis_columns, further_axes, level_label, level_text, size_columns
from dualm.analysis.replicates import Estimate
from dualm.analysis.table import PURE, Target, last, lowest
from dualm.sweep.grid import ALPHA
from dualm.sweep.labels import alpha_label

DIFFERENCES = [
    "axis",
    "level",
    "base",
    "R",
    "alpha",
    "others",
    "target",
    "difference",
    "low",
    "high",
    "seeds",
    "better",
]
CONTESTS = ["R", "others", "target", "value", "alone", "alone_at", "mixture", "mixture_at"]
CONTESTS += ["difference", "low", "high", "seeds", "better"]


def level_differences(table: pd.DataFrame, targets: Sequence[Target]) -> pd.DataFrame:
    """The paired difference between the levels of each further axis, at each (R, alpha) and each level of the other axes.

    The value of a run is its last one. Columns `DIFFERENCES`: `difference` is that of `level` minus `base`, the first level in order;
    `others` are the levels of the other axes; `better` says which of the two the interval favours.
    """
    finished = table[table["finished"].astype(bool)]
    rows = [
        row
        for axis in further_axes(finished)
        for target in targets
        for row in _differences(last(finished, target.column), axis, target)
    ]
    return pd.DataFrame(rows, columns=DIFFERENCES)


def _differences(runs: pd.DataFrame, axis: str, target: Target) -> Iterator[dict[str, Any]]:
    others = [each for each in further_axes(runs) if each != axis]
    place = ["R", "alpha", *size_columns(runs), *(each for each in axis_columns(runs) if each != axis)]
    for _, rows in runs.groupby(place, dropna=False):
        first = rows.iloc[0]
        at = {"R": int(first["R"]), "alpha": float(first["alpha"])}
        seeds = rows.pivot_table(index="seed", columns=axis, values=target.column)
        base, *levels = seeds.columns
        for level in levels:
            pairs = (seeds[level] - seeds[base]).dropna()
            if len(pairs):
                named = {"axis": axis, "level": level_text(level), "base": level_text(base)}
                about = {"others": level_label(others, [first[each] for each in others]), "target": target.name}
                yield named | at | about | _estimated(pairs.to_numpy(), target, (named["level"], named["base"]))


def _estimated(differences: np.ndarray, target: Target, sides: tuple[str, str]) -> dict[str, Any]:
    """The interval of a difference, and which of the two sides (first minus second) it favours; "" if neither."""
    found = Estimate.of(differences)
    low, high = sorted(target.cost(np.array([found.low, found.high])).tolist())
    better = sides[0] if high < 0 else sides[1] if low > 0 else ""  # NaN favours neither
    return {"difference": found.mean, "low": found.low, "high": found.high, "seeds": found.seeds, "better": better}


def contests(table: pd.DataFrame, targets: Sequence[Target]) -> pd.DataFrame:
    """The best of each objective alone against the best mixture, over the same grid of further axes, at each R and size.

    Both sides may choose freely among the levels of all further axes, such as dropout and weight decay, and the mixture its alpha.
    The best of many noisy runs looks better than it is, more so for the side with more runs. So with two seeds or more each seed is
    measured on the choice that the others make, which is unbiased; the interval is over seeds. With one seed the same run is
    chosen and measured, and there is no interval.

    Columns `CONTESTS`: `value` is `final` or, of losses, also `least` (each run's lowest); `alone` and `mixture` are the means
    over seeds of the choices made by all seeds, at `..._at`; `difference` is mixture minus alone.
    """
    finished = table[table["finished"].astype(bool)]
    axes = further_axes(finished)
    sizes = [column for column in size_columns(finished) if finished[column].nunique() > 1]
    rows = []
    for target in targets:
        values = {"final": last(finished, target.column)}
        if not target.higher_is_better:
            values["least"] = lowest(finished, target.column)
        for (name, runs), alone in itertools.product(values.items(), PURE.values()):
            for _, group in runs.groupby(["R", *sizes]):
                first = group.iloc[0]
                others = level_label(sizes, [first[size] for size in sizes])
                about = {"R": int(first["R"]), "others": others, "target": target.name, "value": name}
                if found := _contest(group, target, alone, axes):
                    rows.append(about | found)
    return pd.DataFrame(rows, columns=CONTESTS)


def _contest(runs: pd.DataFrame, target: Target, alone: float, axes: Sequence[str]) -> dict[str, Any]:
    """The contest of the mixtures with the runs of `alpha = alone`; empty if one of the two sides has no runs."""
    costs, candidates = _grid(runs, target, axes)
    mixed, pure = (candidates["alpha"] > 0) & (candidates["alpha"] < 1), candidates["alpha"] == alone
    if not (mixed.any() and pure.any()):
        return {}
    difference = held_out(costs[:, mixed]) - held_out(costs[:, pure])
    if np.isnan(difference).all():
        return {}
    sign = -1 if target.higher_is_better else 1
    about: dict[str, Any] = {}
    for side, chosen in (("alone", pure), ("mixture", mixed)):
        means = np.where(chosen, np.nanmean(costs, axis=0), np.inf)
        best = candidates.iloc[int(means.argmin())]
        levels = level_label(["alpha", *axes], [alpha_label(best["alpha"]), *(best[axis] for axis in axes)])
        about |= {side: sign * float(means.min()), f"{side}_at": levels}
    name = next(reading.upper() for reading, alpha in PURE.items() if alpha == alone)
    return about | _estimated(sign * difference[~np.isnan(difference)], target, ("mixture", f"{name} alone"))


def _grid(runs: pd.DataFrame, target: Target, axes: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """The cost of each candidate with each seed, `[seeds, candidates]` (NaN: not run), and alpha and levels of each candidate."""
    place = [
        "alpha",
        *(each for each in (ALPHA,) if each in runs),
        *axes,
    ]  # schedules of one mean alpha are not one candidate
    candidate = runs.groupby(place, dropna=False).ngroup().to_numpy()
    seeds, seed = np.unique(runs["seed"], return_inverse=True)
    costs = np.full((len(seeds), candidate.max() + 1), np.nan)
    costs[seed, candidate] = target.cost(runs[target.column].to_numpy(float))
    return costs, runs.assign(candidate=candidate).drop_duplicates("candidate").sort_values("candidate")


def held_out(costs: np.ndarray) -> np.ndarray:
    """The cost `[seeds]` of each seed at the candidate that is best on average over the other seeds; costs `[seeds, candidates]`.

    With one seed, its lowest. NaN marks runs that there are not; a candidate without a run of that seed is not chosen for it.
    """
    if len(costs) == 1:
        return np.nanmin(costs, axis=1)
    found = np.full(len(costs), np.nan)
    for seed, own in enumerate(costs):
        rest = np.delete(costs, seed, axis=0)
        counted = (~np.isnan(rest)).sum(0)
        average = np.where((counted > 0) & ~np.isnan(own), np.nansum(rest, axis=0) / np.maximum(counted, 1), np.inf)
        best = int(average.argmin())
        found[seed] = own[best] if np.isfinite(average[best]) else np.nan
    return found
