"""The published findings (Samuel and Charpentier 2025, arXiv 2512.14549), tested on these runs.

Each claim is split into parts that one number decides. A part "shows" if it holds with a confidence of at least 95 %,
"does not show" if its opposite does, and otherwise the verdict is "cannot tell". A claim shows if all its parts show, and
does not show if one of them does not.

R is the number of repetitions, alpha the AR ratio, and alpha * R the AR exposures of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from dualm.analysis.optimum import DRAWS, FINE, best_index
from dualm.analysis.overfitting import difference_error
from dualm.analysis.surface import EDGE, Surface, grid, separate
from dualm.analysis.table import POOL, PURE, last, objective_name
from dualm.evaluation.readings import READINGS

Verdict = Literal["shows", "does not show", "cannot tell"]

SURE = 0.95
NEGLIGIBLE = 0.05  # nats per token: a smaller rise of the loss does not count as overfitting
SAME_MODEL = 0.99  # correlation over windows of the prefix and AR readings of one model; a small model had 0.9999


@dataclass(frozen=True)
class Part:
    """One part of a claim, with the numbers that decide it."""

    verdict: Verdict
    statement: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    key: str  # a, b, c, d
    claim: str
    verdict: Verdict
    parts: Sequence[Part]

    @classmethod
    def of(cls, key: str, claim: str, parts: Sequence[Part]) -> Finding:
        order: tuple[Verdict, ...] = ("does not show", "cannot tell", "shows")
        return cls(key, claim, order[min(order.index(part.verdict) for part in parts)], parts)


def findings(table: pd.DataFrame, overfits: pd.DataFrame, surfaces: Mapping[str, Surface]) -> list[Finding]:
    """The four claims. `overfits` is the table of `overfitting`; `surfaces` may hold those of the AR and MD readings."""
    mixtures = [_by_surface(_mixture_wins, surfaces, reading) for reading in PURE]
    falls = [_by_surface(part, surfaces, reading) for reading in PURE for part in (_alpha_falls, _exposures_stay)]
    return [
        Finding.of("a", "AR overfits at high R, MD does not", [_ar_overfits(overfits), _md_does_not(overfits)]),
        Finding.of("b", "A mixture beats both ends at every R, in both readings", mixtures),
        Finding.of("c", "The best alpha falls with R, with alpha * R near constant", falls),
        Finding.of("d", "Prefix reading beats AR reading for mixed models", [_prefix_wins(table)]),
    ]


def by_probability(probability: float) -> Verdict:
    if probability >= SURE:
        return "shows"
    return "does not show" if probability <= 1 - SURE else "cannot tell"


def _rise(overfits: pd.DataFrame, reading: str) -> tuple[Verdict, str, dict[str, float]]:
    """Whether the runs with one objective only overfit at their highest R.

    Seeds are averaged and not counted as independent, because they share their validation windows.
    """
    alpha = PURE[reading]
    runs = overfits[(overfits["reading"] == reading) & (overfits["alpha"] == alpha)]
    if runs.empty:
        return "cannot tell", f"no finished run of alpha = {alpha:g} has this reading", {}
    R = int(runs["R"].max())
    gap, limit, tokens, seen = runs[runs["R"] == R][["gap", "gap_limit", "tokens_least", "epochs_least"]].mean()
    figures = {"R": R, "gap": gap, "gap_limit": limit, "tokens_least": tokens, "epochs_least": seen}
    statement = (
        f"at alpha = {alpha:g} and R = {R} the {objective_name(reading)} loss ends {gap:.3f} nats/token above its "
    )
    statement += f"lowest value, which it reached after {seen:.3g} epochs (95 % limit of chance: {limit:.3f})"
    if gap + limit < NEGLIGIBLE:
        return "does not show", statement, figures
    return ("shows" if gap > max(limit, NEGLIGIBLE) else "cannot tell"), statement, figures


def _ar_overfits(overfits: pd.DataFrame) -> Part:
    return Part(*_rise(overfits, "ar"))


def _md_does_not(overfits: pd.DataFrame) -> Part:
    rises, statement, figures = _rise(overfits, "md")
    opposite: dict[Verdict, Verdict] = {
        "shows": "does not show",
        "does not show": "shows",
        "cannot tell": "cannot tell",
    }
    return Part(opposite[rises], statement, figures)


def _by_surface(part: Callable[[Surface], Part], surfaces: Mapping[str, Surface], reading: str) -> Part:
    if reading not in surfaces:
        return Part("cannot tell", f"{objective_name(reading)} reading: no surface could be fitted")
    return part(surfaces[reading])


def _trained(surface: Surface) -> np.ndarray:
    return np.unique(surface.points["R"])


def mixture_probability(surface: Surface) -> pd.DataFrame:
    """At each R, the mixture with the best posterior median and the probability that it beats alpha = 0 and alpha = 1.

    Columns R, alpha, probability. One mixture is chosen before the comparison, because the best of many noisy mixtures
    would beat both ends by chance alone.
    """
    repetitions, alphas = _trained(surface), np.array(POOL)
    targets = surface.draw_targets(grid(repetitions, alphas), DRAWS).reshape(DRAWS, len(repetitions), len(alphas))
    chosen = 1 + np.median(targets, axis=0)[:, 1:-1].argmin(-1)
    mixture = np.take_along_axis(targets, chosen[None, :, None], -1)[..., 0]
    wins = mixture < np.minimum(targets[..., 0], targets[..., -1])
    return pd.DataFrame({"R": repetitions, "alpha": alphas[chosen], "probability": wins.mean(0)})


def _mixture_wins(surface: Surface) -> Part:
    table = mixture_probability(surface)
    worst = table.iloc[int(table["probability"].to_numpy().argmin())]
    sure = int((table["probability"] >= SURE).sum())
    statement = f"{objective_name(surface.name)} reading: a mixture beats both ends with a probability of {SURE:.0%} or more at {sure} of {len(table)} R; "
    statement += f"the lowest is {worst['probability']:.2f}, at R = {worst['R']:g} (alpha {worst['alpha']:.4g})"
    figures = {f"R={R:g}": p for R, p in zip(table["R"], table["probability"], strict=True)}
    return Part(by_probability(float(worst["probability"])), statement, figures)


def _slopes(heights: np.ndarray, repetitions: np.ndarray) -> np.ndarray:
    """Least-squares slope on log2 R of each draw, `[draws]` from `[draws, R]`."""
    x = np.log2(repetitions) - np.log2(repetitions).mean()
    return heights @ x / (x @ x)


def _best_draws(surface: Surface, repetitions: np.ndarray) -> np.ndarray:
    alphas = np.unique([*FINE, *POOL])
    return alphas[best_index(surface, repetitions.tolist(), alphas.tolist())]


def _alpha_falls(surface: Surface) -> Part:
    repetitions = _trained(surface)
    slopes = _slopes(separate(_best_draws(surface, repetitions)), repetitions)
    falls = float((slopes < 0).mean())
    statement = f"{objective_name(surface.name)} reading: the best alpha falls with R with probability {falls:.2f}"
    return Part(
        by_probability(falls), statement, {"probability": falls, "slope of logit alpha": float(np.median(slopes))}
    )


def _exposures_stay(surface: Surface) -> Part:
    """Tested at R >= 16 if there are such runs, because below R = 16 the published rule keeps alpha constant, not alpha * R."""
    repetitions = _trained(surface)
    from_16 = repetitions[repetitions >= 16]
    repetitions = from_16 if len(from_16) > 1 else repetitions
    slopes = _slopes(np.log2(np.maximum(_best_draws(surface, repetitions), EDGE)), repetitions)
    low, high = np.quantile(slopes, (0.05, 0.95))
    near = float(((slopes > -1.5) & (slopes < -0.5)).mean())
    statement = f"{objective_name(surface.name)} reading: from R = {repetitions[0]:g} on the best alpha is proportional to R to the power {low:.2f} to "
    statement += (
        f"{high:.2f} (90 % credible interval; -1 keeps alpha * R constant, and -1.5 to -0.5 has probability {near:.2f})"
    )
    return Part(by_probability(near), statement, {"low": float(low), "high": float(high), "probability": near})


def _prefix_wins(table: pd.DataFrame) -> Part:
    """Decided by the mean difference and by the share of mixed runs; all runs have the error over windows in common."""
    names = prefix, causal = READINGS["prefix"].metric, READINGS["ar_second_half"].metric
    mixed = table[(table["alpha"] > 0) & (table["alpha"] < 1)]
    runs = last(mixed, prefix).dropna(subset=[causal]) if set(names) <= set(table.columns) else mixed.head(0)
    if len(runs) < 2:
        return Part("cannot tell", f"{len(runs)} finished mixed runs have both readings of the same targets")
    difference = (runs[prefix] - runs[causal]).to_numpy()
    errors = [runs[name + "_se"].to_numpy() if name + "_se" in runs else np.zeros(len(runs)) for name in names]
    windows = difference_error(errors[0], errors[1], correlation=SAME_MODEL).mean()
    mean, error = difference.mean(), np.hypot(difference.std(ddof=1) / np.sqrt(len(runs)), windows)
    wins = int((difference < 0).sum())
    share = binomtest(wins, len(runs)).proportion_ci(2 * SURE - 1)
    limit = norm.ppf(SURE) * error
    verdict: Verdict = "cannot tell"
    if mean < -limit and share.low > 0.5:
        verdict = "shows"
    elif mean > limit and share.high < 0.5:
        verdict = "does not show"
    statement = (
        f"prefix minus AR on the same targets is {mean:+.4f} ± {error:.4f} nats/token over {len(runs)} mixed runs, "
    )
    statement += f"{wins} of which have the lower loss with a prefix"
    return Part(verdict, statement, {"difference": mean, "se": error, "runs": len(runs), "better": wins})
