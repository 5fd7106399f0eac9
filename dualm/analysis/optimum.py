"""The best AR ratio alpha at each number of repetitions R, with its posterior distribution.

Samples are drawn from the posterior of the surface. Each sample has its own best ratio; their distribution is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dualm.analysis.surface import Surface, grid, separate, unite
from dualm.analysis.table import POOL
from dualm.plan.mixture import published_alpha

DRAWS = 4000
FINE = unite(np.linspace(separate(np.array(0.0)), separate(np.array(1.0)), 49))  # ratios between the published ones
LEVEL = 0.9


def best_index(surface: Surface, repetitions: Sequence[int], alphas: Sequence[float], draws: int = DRAWS) -> np.ndarray:
    """Index of the best of `alphas` in each joint posterior sample, `[draws, repetitions]`."""
    targets = surface.draw_targets(grid(np.asarray(repetitions), np.asarray(alphas)), draws)
    return targets.reshape(draws, len(repetitions), len(alphas)).argmin(-1)


def probability_best(surface: Surface, repetitions: Sequence[int], alphas: Sequence[float] = POOL) -> pd.DataFrame:
    """P(alpha is the best of `alphas`) given the data: a row per R, a column per alpha. Each row sums to 1."""
    best = best_index(surface, repetitions, alphas)
    counts = [np.bincount(column, minlength=len(alphas)) for column in best.T]
    index = pd.Index(repetitions, name="R")
    return pd.DataFrame(np.array(counts) / len(best), index=index, columns=pd.Index(alphas, name="alpha"))


def best_alpha(surface: Surface, repetitions: Sequence[int]) -> pd.DataFrame:
    """A row per R with the best ratio in [0, 1], on a grid of about 60 ratios. Intervals are 90 % credible intervals.

    Columns: R; alpha (with the best posterior median), low, high (interval of the best ratio), value (median at alpha);
    exposures, exposures_low, exposures_high (AR exposures of each token, alpha * R); published_alpha and
    published_exposures (the published rule: 63/64 up to R = 16, then 16/R); cost_of_rule, cost_low, cost_high (how much
    worse the ratio of the rule is than the best).
    """
    rule = [published_alpha(R) for R in repetitions]
    alphas = np.unique([*FINE, *POOL, *rule])
    values = surface.draw(np.asarray(repetitions), alphas, DRAWS)
    costs = -values if surface.higher_is_better else values
    rows = []
    for row, R in enumerate(repetitions):
        best = int(np.median(costs[:, row], axis=0).argmin())
        low, high = np.quantile(alphas[costs[:, row].argmin(-1)], tails(LEVEL), method="inverted_cdf")
        lost = costs[:, row, np.searchsorted(alphas, rule[row])] - costs[:, row, best]
        rows.append(
            {"R": R, "alpha": alphas[best], "low": low, "high": high, "value": np.median(values[:, row, best])}
            | {"exposures": alphas[best] * R, "exposures_low": low * R, "exposures_high": high * R}
            | {"published_alpha": rule[row], "published_exposures": rule[row] * R, "cost_of_rule": np.median(lost)}
            | dict(zip(("cost_low", "cost_high"), np.quantile(lost, tails(LEVEL)), strict=True))
        )
    return pd.DataFrame(rows)


def tails(level: float) -> tuple[float, float]:
    """The quantiles at the ends of a central interval of probability `level`: 0.9 -> (0.05, 0.95)."""
    return (1 - level) / 2, (1 + level) / 2
