"""The results table as the analyses read it: its columns, its readings, and one row per finished run.

R is the number of repetitions of the data, alpha the AR ratio (the fraction of training sequences with the AR objective).
A reading is one way to evaluate a model; `dualm.evaluation.readings` lists them. In tables it is named by its key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from dualm.errors import UserError
from dualm.evaluation.readings import DRAWN, READINGS

LOSSES = {reading.key: reading.metric for reading in DRAWN}  # key of a reading: its column, nats per token
PURE = {"ar": 1.0, "md": 0.0}  # alpha of the runs with one objective only, by the reading that this objective trains
POOL = (0, 1 / 256, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 15 / 16, 63 / 64, 255 / 256, 1)  # published ratios
REQUIRED = ("run", "step", "tokens", "R", "alpha", "seed", "unique_tokens", "parameters", "finished")


@dataclass(frozen=True)
class Target:
    """The quantity that a surface is fitted to: a validation loss, or the score of a benchmark task in one mode."""

    name: str  # `ar`, `md`, `prefix`, or `blimp/ar`
    column: str
    higher_is_better: bool


def objective_name(reading: str) -> str:
    """`AR` or `MD`, for a key of `PURE`."""
    return READINGS[reading].title.removesuffix(" reading")


def pure_group(reading: str) -> str:
    """`AR (alpha = 1)` or `MD (alpha = 0)`: the runs with one objective only, for a key of `PURE`."""
    return f"{objective_name(reading)} (alpha = {PURE[reading]:g})"


def check(table: pd.DataFrame) -> None:
    """Raises UserError if a column that every analysis needs is missing."""
    if missing := [column for column in REQUIRED if column not in table]:
        raise UserError(f"results table: has no column {missing[0]!r}, expected {', '.join(REQUIRED)}")


def targets(table: pd.DataFrame) -> list[Target]:
    """The readings and task scores for which `table` has numbers."""
    losses = [Target(name, column, False) for name, column in LOSSES.items() if column in table]
    tasks = [Target(name[5:], name, True) for name in table.columns if re.fullmatch(r"task/[^/]+/(?!.*_se$).+", name)]
    return [target for target in losses + tasks if table[target.column].notna().any()]


def validations(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows of finished runs that have a number in `column`, sorted by run and step."""
    measured = table[table["finished"].astype(bool) & table[column].notna()]
    return measured.sort_values(["run", "step"], kind="stable")


def last(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per finished run: its last one with a number in `column`."""
    return validations(table, column).groupby("run", sort=True).tail(1).reset_index(drop=True)


def lowest(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per finished run: the one with its lowest value of `column`."""
    rows = validations(table, column)
    return rows.loc[rows.groupby("run", sort=True)[column].idxmin()].reset_index(drop=True)


def surface_points(table: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Columns R, alpha, value at the end of each finished run: the input of `fit_surface`."""
    rows = last(table, target.column)
    return rows[["run", "R", "alpha", "seed"]].assign(value=rows[target.column])
