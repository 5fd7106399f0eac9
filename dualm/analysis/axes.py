"""The axes of a sweep beside R and alpha, and the groups of runs within which nothing but R, alpha and the seed differs.

A column of the results table that is named like a recipe key (`model.dropout`) is an axis of the sweep. Its levels are never mixed:
each level, or combination of levels, is a group of runs with its own surface, curves and findings. `comparison` compares the levels.

At equal compute many keys vary together with the size of the model and its budget. An axis with one value at each size is no axis of
its own; the analyses that need several sizes read them from `parameters` and `budget_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dualm.sweep.grid import ALPHA, REPETITIONS
from dualm.sweep.labels import as_text, count_label

SIZE = ("parameters", "budget_tokens")
RECIPE_KEY = re.compile(r"[a-z_]+\.[a-z_.]+")  # the columns of metrics have slashes


def axis_columns(table: pd.DataFrame) -> list[str]:
    """Every axis of the sweep, by recipe key."""
    return [column for column in table.columns if RECIPE_KEY.fullmatch(column)]


def size_columns(table: pd.DataFrame) -> list[str]:
    return [column for column in SIZE if column in table]


def further_axes(table: pd.DataFrame) -> list[str]:
    """The axes beside R and alpha that vary between runs of one size."""
    runs = table.drop_duplicates("run")
    at_one_size = runs.groupby(size_columns(table), dropna=False)
    return [
        axis
        for axis in axis_columns(table)
        if axis not in (REPETITIONS, ALPHA) and at_one_size[axis].nunique(dropna=False).max() > 1
    ]


def by_level(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Label and rows of each combination of levels of the further axes; one group without label if there are none."""
    axes = further_axes(table)
    if not axes:
        return [("", table)]
    return [(level_label(axes, levels), rows) for levels, rows in table.groupby(axes, dropna=False)]


def by_size(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Label (`105k parameters, 3M tokens`) and rows of each size of the model and of the budget."""
    names = {"parameters": "parameters", "budget_tokens": "tokens"}
    columns = size_columns(table)
    return [
        (", ".join(f"{count_label(rows[column].iloc[0])} {names[column]}" for column in columns), rows)
        for _, rows in table.groupby(columns)
    ]


def level_label(axes: Sequence[str], levels: Sequence[object]) -> str:
    """`model.dropout=0.1, optimizer.weight_decay=0.8`."""
    return ", ".join(f"{axis}={level_text(level)}" for axis, level in zip(axes, levels, strict=True))


def level_text(level: object) -> str:
    """A level as it is written in a recipe."""
    return as_text(level_value(level))


def level_value(level: Any) -> Any:
    """A level as a number, truth value or text of Python."""
    return level.item() if isinstance(level, np.generic) else level
