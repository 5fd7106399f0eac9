"""Seeds: runs that differ in nothing but the seed are one cell, which has a mean and an interval.

The interval is Student's t with the seeds as units (95 %). It holds for the validation windows and documents used: all runs share
them, so their error is not part of it. A cell of one seed has no interval; it is one observation, and reports say "one seed".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from dualm.analysis.axes import axis_columns, size_columns

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean of `seeds` values, with half the width of its t interval; NaN for one seed."""

    mean: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Estimate:
        numbers = np.asarray(values, float)
        spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
        return cls(float(numbers.mean()), float(half_width(spread, len(numbers))), len(numbers))

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def half_width(sd: np.ndarray | float, seeds: np.ndarray | int) -> np.ndarray:
    """Half the width of the t interval of a mean over `seeds`, from their standard deviation; NaN for one seed."""
    count = np.asarray(seeds, float)
    reach = stdtrit(np.where(count > 1, count - 1, np.nan), (1 + CONFIDENCE) / 2)
    return reach * np.asarray(sd, float) / np.sqrt(count)


def seeds_label(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def with_half(mean: float, half: float, form: str = ".3f") -> str:
    """`4.123 ± 0.010`, or the mean alone if there is no interval."""
    return f"{mean:{form}}" if math.isnan(half) else f"{mean:{form}} ± {half:{form.removeprefix('+')}}"


def cells(table: pd.DataFrame) -> pd.Series:
    """The cell of each run, by run. A cell of several runs is named like them without the seed; of one, like the run."""
    runs = table.drop_duplicates("run").set_index("run")
    keys = ["R", "alpha", *size_columns(table), *axis_columns(table)]
    alike = runs.assign(first=runs.index.astype(str)).groupby(keys, dropna=False, sort=False)
    first, seed, several = (
        alike["first"].transform("first"),
        alike["seed"].transform("first"),
        alike["seed"].transform("size") > 1,
    )
    names = [
        name.removesuffix(f"-s{s}") if merge else name for name, s, merge in zip(first, seed, several, strict=True)
    ]
    return pd.Series(names, index=runs.index, dtype=object)


def over_seeds(rows: pd.DataFrame, cell: pd.Series, columns: Sequence[str], by: Sequence[str] = ()) -> pd.DataFrame:
    """A row per cell, and per value of the columns `by`, in order of appearance, from one per run.

    `columns` become means, each with `..._sd` and `..._half` (half the width of its interval). `run` becomes the name of the cell,
    `seeds` their number. Every other column keeps its first value.
    """
    grouped = rows.assign(run=rows["run"].map(cell)).groupby(["run", *by], sort=False, dropna=False)
    merged, seeds = grouped.first(), grouped.size()
    for column in columns:
        sd = grouped[column].std()
        merged[column], merged[f"{column}_sd"] = grouped[column].mean(), sd
        merged[f"{column}_half"] = half_width(sd.to_numpy(), seeds.to_numpy())
    return merged.assign(seeds=seeds).reset_index()[["run", *[c for c in rows.columns if c != "run"], *_added(columns)]]


def _added(columns: Sequence[str]) -> list[str]:
    return ["seeds", *(f"{column}_{what}" for column in columns for what in ("sd", "half"))]
