"""The results table as the analyses read it: which columns are readings, and one row per finished run."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from dualm.errors import UserError
from dualm.evaluation.readings import DRAWN

LOSSES = {reading.key: reading.metric for reading in DRAWN}  # nats per token
POOL = (0, 1 / 256, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 15 / 16, 63 / 64, 255 / 256, 1)  # published ratios
REQUIRED = ("run", "step", "tokens", "R", "alpha", "seed", "unique_tokens", "parameters", "finished")


@dataclass(frozen=True)
class Target:
    """What a surface is fitted to: a validation loss, or the score of a task in one mode."""

    name: str  # `ar`, `md`, `prefix`, or `blimp/ar`
    column: str
    higher_is_better: bool


def check(table: pd.DataFrame) -> None:
    """Raises UserError if a column that every analysis needs is missing."""
    if missing := [column for column in REQUIRED if column not in table]:
        raise UserError(f"results table: has no column {missing[0]!r}, expected {', '.join(REQUIRED)}")


def targets(table: pd.DataFrame) -> list[Target]:
    """The readings and task scores that `table` has numbers of."""
    losses = [Target(name, column, False) for name, column in LOSSES.items() if column in table]
    tasks = [Target(name[5:], name, True) for name in table.columns if re.fullmatch(r"task/[^/]+/(?!.*_se$).+", name)]
    return [target for target in losses + tasks if table[target.column].notna().any()]


def validations(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows of finished runs that have a number in `column`, by run and step."""
    measured = table[table["finished"].astype(bool) & table[column].notna()]
    return measured.sort_values(["run", "step"], kind="stable")


def last(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per finished run: its last one with a number in `column`."""
    return validations(table, column).groupby("run", sort=True).tail(1).reset_index(drop=True)


def least(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per finished run: the one of its least `column`."""
    rows = validations(table, column)
    return rows.loc[rows.groupby("run", sort=True)[column].idxmin()].reset_index(drop=True)


def surface_points(table: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Columns R, alpha, value at the end of each finished run: the input of `fit_surface`."""
    rows = last(table, target.column)
    return rows[["run", "R", "alpha", "seed"]].assign(value=rows[target.column])
