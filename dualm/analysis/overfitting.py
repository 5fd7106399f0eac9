"""Where each run starts to overfit: its lowest validation loss, and how far the loss rises afterwards.

Error model. All validations of a run use the same windows and the same noise. The difference of two losses is therefore
known much better than either loss: a window that is hard at one step is hard at the next. A difference has two errors:

    windows   sqrt(se_i² + se_j² - 2 rho se_i se_j), with rho the correlation over windows of the losses of two checkpoints.
              The table has no losses of single windows, so rho is assumed. `CORRELATION` is lower, so more cautious,
              than the 0.91 to 0.96 measured in all three readings between steps 350, 490 and 700 of recipes/novels-3m.yaml.
    jitter    of single validations about the smooth curve of the run. It is estimated from the curve itself: the distance
              of each point to the line through its neighbours.

The minimum of n noisy numbers is biased downwards. The limits are therefore Šidák's, which hold for all n validations
together.

Several seeds of one point are described one by one and then averaged (`over_seeds`). Their mean gap is significant beyond the
limit of one run and the spread of the seeds together; the former does not shrink with seeds, because they share their windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from dualm.analysis.replicates import cells, over_seeds
from dualm.analysis.table import LOSSES, Target, check, validations

CORRELATION = 0.9
CONFIDENCE = 0.95
MIN_FOR_JITTER = 5


@dataclass(frozen=True)
class Overfitting:
    """One run in one reading. Losses are in nats per token; the band and `overfits` hold at 95 % confidence."""

    run: str
    R: int
    alpha: float
    seed: int
    reading: str
    tokens_least: float  # trained tokens at the lowest loss
    tokens_low: float  # the first and last validation that do not differ significantly from the lowest
    tokens_high: float
    epochs_least: float
    loss_least: float  # the lowest
    loss_last: float
    gap: float  # last - lowest
    gap_se: float
    gap_limit: float  # a larger gap is significant
    overfits: bool  # gap > gap_limit
    validations: int


def overfitting(table: pd.DataFrame, readings: Sequence[str] = tuple(LOSSES)) -> pd.DataFrame:
    """A row per finished run and reading (a key of `LOSSES` or another column of losses); the columns are the fields of `Overfitting`."""
    check(table)
    rows = [row for reading in readings if Target.named(reading).column in table for row in _described(table, reading)]
    return pd.DataFrame([asdict(row) for row in rows], columns=list(Overfitting.__dataclass_fields__))


def _described(table: pd.DataFrame, reading: str) -> Iterator[Overfitting]:
    """Every finished run in one reading."""
    rows = validations(table, Target.named(reading).column)
    numbers = {str(name): column.to_numpy(float) for name, column in _curve(rows, reading).items()}
    names = rows["run"].to_numpy()
    edges = np.unique(np.append(np.flatnonzero(names[1:] != names[:-1]) + 1, (0, len(names))))
    for begin, end in pairwise(edges.tolist()):
        first = rows.iloc[begin]
        place = {
            "run": str(first["run"]),
            "R": int(first["R"]),
            "alpha": float(first["alpha"]),
            "seed": int(first["seed"]),
        }
        own = {name: column[begin:end] for name, column in numbers.items()}
        yield Overfitting(**place, reading=reading, **describe(**own))


def merged(overfits: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A row per cell and reading: means over seeds, with `..._half` (see `replicates.over_seeds`).

    `overfits` is of the mean gap and `overfitting` the number of seeds that overfit; the band reaches from the first of a seed to the last.
    """
    means = ["tokens_least", "epochs_least", "loss_least", "loss_last", "gap", "gap_se", "gap_limit"]
    cell = cells(table)
    by_cell = overfits.assign(run=overfits["run"].map(cell)).groupby(["run", "reading"], sort=False)
    rows = over_seeds(overfits.drop(columns=["tokens_low", "tokens_high"]), cell, means, ["reading"])
    limit = np.hypot(rows["gap_limit"], rows["gap_half"].fillna(0))
    return rows.assign(
        gap_limit=limit,
        overfits=rows["gap"] > limit,
        overfitting=by_cell["overfits"].sum().to_numpy(),
        tokens_low=by_cell["tokens_low"].min().to_numpy(),
        tokens_high=by_cell["tokens_high"].max().to_numpy(),
    )


def curve(table: pd.DataFrame, run: str, reading: str) -> pd.DataFrame:
    """Columns step, tokens, epochs (so far), loss, se of one run, finished or not, sorted by step."""
    rows = table[(table["run"] == run) & table[Target.named(reading).column].notna()].sort_values("step")
    return _curve(rows, reading)


def mean_curves(table: pd.DataFrame, cell: pd.Series, reading: str) -> dict[str, pd.DataFrame]:
    """By cell, the columns of `curve` with the mean loss over its seeds, loss_half and seeds, where all seeds have a loss."""
    rows = table[table[Target.named(reading).column].notna()].sort_values("step", kind="stable")
    steps = over_seeds(_curve(rows, reading).assign(run=rows["run"].to_numpy()), cell, ["loss"], ["step"])
    whole = steps["seeds"] == steps.groupby("run")["seeds"].transform("max")
    return {str(name): own.reset_index(drop=True) for name, own in steps[whole].groupby("run", sort=False)}


def _curve(rows: pd.DataFrame, reading: str) -> pd.DataFrame:
    column = Target.named(reading).column
    se = rows.get(column + "_se", 0.0)
    seen = {"epochs": rows["tokens"] / rows["unique_tokens"], "loss": rows[column], "se": se}
    return rows[["step", "tokens"]].assign(**seen).reset_index(drop=True)


def describe(
    step: np.ndarray, tokens: np.ndarray, epochs: np.ndarray, loss: np.ndarray, se: np.ndarray
) -> dict[str, Any]:
    """The fields of `Overfitting` that follow from the validations `[n]` of one run, sorted by step."""
    lowest = int(loss.argmin())
    errors = difference_error(se, se[lowest], jitter(tokens, loss))
    limit = float(ndtri(CONFIDENCE ** (1 / len(loss))))
    band = tokens[(loss - loss[lowest] <= limit * errors) | (np.arange(len(loss)) == lowest)]
    gap, gap_se = loss[-1] - loss[lowest], errors[-1] if lowest < len(loss) - 1 else 0.0
    return {
        "tokens_least": tokens[lowest],
        "tokens_low": band[0],
        "tokens_high": band[-1],
        "epochs_least": float(epochs[lowest]),
        "loss_least": loss[lowest],
        "loss_last": loss[-1],
        "gap": float(gap),
        "gap_se": float(gap_se),
        "gap_limit": float(limit * gap_se),
        "overfits": bool(gap > limit * gap_se),
        "validations": len(loss),
    }


def difference_error(
    se: np.ndarray, other: np.ndarray | float, jitter: float = 0.0, correlation: float = CORRELATION
) -> np.ndarray:
    """Standard error of the difference of losses on the same windows, nats per token."""
    windows = se**2 + other**2 - 2 * correlation * se * other
    return np.sqrt(windows + 2 * jitter**2)


def jitter(tokens: np.ndarray, loss: np.ndarray) -> float:
    """Robust standard deviation of single validations about a smooth curve; 0 if there are too few to estimate it.

    A point at fraction w of the way between its neighbours differs from the line through them by noise of variance
    1 + w² + (1 - w)², in units of the variance of one validation. Curvature adds to the estimate, which is then too large.
    """
    if len(loss) < MIN_FOR_JITTER:
        return 0.0
    fraction = (tokens[1:-1] - tokens[:-2]) / (tokens[2:] - tokens[:-2])
    distance = loss[1:-1] - ((1 - fraction) * loss[:-2] + fraction * loss[2:])
    return float(1.4826 * np.median(np.abs(distance) / np.sqrt(1 + fraction**2 + (1 - fraction) ** 2)))
