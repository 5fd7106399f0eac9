"""The results table as the analyses read it: its columns, its readings, and one row per finished run.

R is the number of repetitions of the data, alpha the AR ratio (the fraction of training sequences with the AR objective).
A reading is one way to evaluate a model; `dualm.evaluation.readings` lists them. In tables it is named by its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dualm.analysis.replicates import cells, over_seeds
from dualm.errors import UserError
from dualm.evaluation.readings import DRAWN, READINGS

LOSSES = {reading.key: reading.metric for reading in DRAWN}  # key of a reading: its column, nats per token
PURE = {"ar": 1.0, "md": 0.0}  # alpha of the runs with one objective only, by the reading that this objective trains
POOL = (0, 1 / 256, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 15 / 16, 63 / 64, 255 / 256, 1)  # published ratios
LOSS, AVERAGE = "loss", "average"  # families of targets
MD_READINGS = ("md", "pll", "pll_mixed", "mc", "prefix")  # the first that there is stands for what MD trains
REQUIRED = ("run", "step", "tokens", "R", "alpha", "seed", "unique_tokens", "parameters", "finished")


@dataclass(frozen=True)
class Target:
    """A column of the results table that a surface is fitted to and findings are tested on.

    A validation loss is named by its reading (`ar`) or, if no reading of the analyses has it, by its column (`valid/ar_bpb`). A score is
    named by its task and mode (`average/pll`, `blimp/ar`).
    """

    name: str
    column: str
    higher_is_better: bool

    @classmethod
    def named(cls, name: str) -> Target:
        if name in LOSSES:
            return cls(name, LOSSES[name], False)
        return cls(name, name, False) if name.startswith("valid/") else cls(name, f"task/{name}", True)

    @property
    def family(self) -> str:
        """What is read in several ways: `loss`, `average`, the name of a task, or a column alone."""
        return LOSS if self.name in LOSSES else self.name if self.column == self.name else self.name.partition("/")[0]

    @property
    def reading(self) -> str:
        """`ar`, `md`, `prefix`, or the mode of a score."""
        return self.name if self.name in LOSSES or self.column == self.name else self.name.partition("/")[2]

    @property
    def title(self) -> str:
        if self.name in LOSSES:
            return READINGS[self.name].title
        return self.name if self.column == self.name else f"{family_title(self.family)}, {self.reading} mode"

    @property
    def unit(self) -> str:
        if not self.higher_is_better:
            return "bits/byte" if self.column.endswith("_bpb") else "nats/token"
        return "points of 100" if self.family == AVERAGE else "score"

    def cost(self, values: np.ndarray) -> np.ndarray:
        """The values with the sign for which lower is better."""
        return -values if self.higher_is_better else values


def family_title(family: str) -> str:
    """`validation loss`, `average score`, `blimp`."""
    return {LOSS: "validation loss", AVERAGE: "average score"}.get(family, family)


def families(chosen: Iterable[Target]) -> dict[str, dict[str, Target]]:
    """The targets of each family, by reading."""
    found: dict[str, dict[str, Target]] = {}
    for target in chosen:
        found.setdefault(target.family, {})[target.reading] = target
    return found


def both_readings(family: Mapping[str, Target]) -> list[Target]:
    """The reading that AR trains and the one that MD trains. MD has no NELBO among scores: PLL stands for it, or prefix."""
    md = next((family[reading] for reading in MD_READINGS if reading in family), None)
    return [target for target in (family.get("ar"), md) if target]


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


def targets(table: pd.DataFrame, wanted: Sequence[str] = ()) -> list[Target]:
    """The readings and scores for which `table` has numbers; with `wanted`, those named there.

    A wanted word is the name of a target, its column, a family (`loss`, `average`, a task), or any other column `valid/...`.

    Raises:
        UserError: the table has no such column.
    """
    scores = [name[5:] for name in table.columns if re.fullmatch(r"task/[^/]+/(?!.*_se$).+", name)]
    known = [target for target in map(Target.named, [*LOSSES, *scores]) if _has_numbers(table, target.column)]
    if not wanted:
        return known
    found = [target for word in wanted for target in _called(word, known, table)]
    return list(dict.fromkeys(found))


def _called(word: str, known: Sequence[Target], table: pd.DataFrame) -> list[Target]:
    if found := [target for target in known if word in (target.name, target.column, target.family)]:
        return found
    if word.startswith("valid/") and _has_numbers(table, word):
        return [Target.named(word)]
    names = ", ".join(dict.fromkeys([target.family for target in known] + [target.name for target in known]))
    raise UserError(f"--target: got {word!r}, expected a column valid/... of the results table, or one of {names}")


def _has_numbers(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


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
    """Columns R, alpha, value at the end of the finished runs, seeds and value_sd over them: the input of `fit_surface`."""
    rows = last(table, target.column)
    points = rows[["run", "R", "alpha"]].assign(value=rows[target.column].astype(float))
    return over_seeds(points, cells(table), ["value"])
