"""The published findings (Samuel and Charpentier 2025, arXiv 2512.14549), tested on these runs.

They are tested on each family of columns: the validation losses, the average score, each task. The published ones are about the
average score of nine tasks. "Both readings" are AR and MD among losses, AR and PLL (or prefix) among scores.

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
from dualm.analysis.overfitting import difference_error, merged
from dualm.analysis.replicates import cells, over_seeds, seeds_label
from dualm.analysis.surface import EDGE, Surface, grid, separate
from dualm.analysis.table import LOSS, POOL, PURE, Target, both_readings, families, family_title, last
from dualm.evaluation.readings import READINGS

Verdict = Literal["shows", "does not show", "cannot tell"]

SURE = 0.95
NEGLIGIBLE = 0.05  # nats per token: a smaller rise of the loss does not count as overfitting
SAME_MODEL = 0.99  # correlation over windows of the prefix and AR losses of one model; a small model had 0.9999


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
    about: str = ""  # the family of columns: `validation loss`, `average score`, a task

    @classmethod
    def of(cls, key: str, claim: str, about: str, parts: Sequence[Part]) -> Finding:
        order: tuple[Verdict, ...] = ("does not show", "cannot tell", "shows")
        return cls(key, claim, order[min(order.index(part.verdict) for part in parts)], parts, about)


def findings(
    table: pd.DataFrame, overfits: pd.DataFrame, surfaces: Mapping[str, Surface], targets: Sequence[Target]
) -> list[Finding]:
    """The four claims on each family of `targets`.

    `overfits` is the table of `overfitting`; `surfaces`, by name of a target, may lack some of them.
    """
    rises = merged(overfits, table)
    return [claim for family in families(targets).values() for claim in _claims(table, rises, surfaces, family)]


def _claims(
    table: pd.DataFrame, rises: pd.DataFrame, surfaces: Mapping[str, Surface], family: Mapping[str, Target]
) -> list[Finding]:
    """The claims on the targets of one family, by reading. A target without another reading has no claim about two."""
    every = list(family.values())
    pair = both_readings(family) if len(every) > 1 else every
    overfit = [part for target in pair if (part := _rises(rises, target))]
    mixtures = [_by_surface(_mixture_wins, surfaces, target) for target in pair]
    falls = [_by_surface(part, surfaces, target) for target in pair for part in (_alpha_falls, _exposures_stay)]
    both = ", in both readings" if len(pair) > 1 else ""
    claims = [
        ("a", "AR overfits at high R, MD does not", overfit),
        ("b", f"A mixture beats both ends at every R{both}", mixtures),
        ("c", "The best alpha falls with R, with alpha * R near constant", falls),
    ]
    if len(every) > 1:
        claims.append(("d", "Prefix reading beats AR reading for mixed models", [_prefix_wins(table, family)]))
    about = family_title(every[0].family)
    return [Finding.of(key, claim, about, parts) for key, claim, parts in claims if parts]


def _named(target: Target) -> str:
    """`AR reading (valid/ar_nll)`: which column a statement is about."""
    return f"{target.title} ({target.column})"


def by_probability(probability: float) -> Verdict:
    if probability >= SURE:
        return "shows"
    return "does not show" if probability <= 1 - SURE else "cannot tell"


def _rises(rises: pd.DataFrame, target: Target) -> Part | None:
    """Whether the runs of one objective only overfit at their highest R, as AR (alpha = 1) should and MD (alpha = 0) should not.

    None for a reading that no objective trains alone.
    """
    if target.higher_is_better:
        return Part("cannot tell", f"{_named(target)}: measured at the end of a run alone, and this claim needs curves")
    alpha = PURE.get(target.reading.removeprefix("valid/").partition("_")[0])
    if alpha is None:
        return None
    runs = rises[(rises["reading"] == target.name) & (rises["alpha"] == alpha)]
    if runs.empty:
        return Part("cannot tell", f"{_named(target)}: no finished run of alpha = {alpha:g} has this reading")
    row = runs.iloc[int(runs["R"].to_numpy().argmax())]
    R, gap, limit = int(row["R"]), float(row["gap"]), float(row["gap_limit"])
    figures = {"R": R, "gap": gap, "gap_limit": limit, "seeds": int(row["seeds"])}
    figures |= {name: float(row[name]) for name in ("tokens_least", "epochs_least")}
    statement = (
        f"{_named(target)}: at alpha = {alpha:g} and R = {R} the loss ends {gap:.3f} {target.unit} above its lowest value, which it "
        f"reached after {row['epochs_least']:.3g} epochs (95 % limit of chance: {limit:.3f}; {seeds_label(int(row['seeds']))})"
    )
    overfits: Verdict = "shows" if gap > max(limit, NEGLIGIBLE) else "cannot tell"
    if gap + limit < NEGLIGIBLE:
        overfits = "does not show"
    opposite: dict[Verdict, Verdict] = {"shows": "does not show", "does not show": "shows"}
    return Part(overfits if alpha == PURE["ar"] else opposite.get(overfits, overfits), statement, figures)


def _by_surface(part: Callable[[Surface], Part], surfaces: Mapping[str, Surface], target: Target) -> Part:
    if target.name not in surfaces:
        return Part("cannot tell", f"{_named(target)}: no surface could be fitted")
    return part(surfaces[target.name])


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
    statement = f"{_named(surface.target)}: a mixture beats both ends with a probability of {SURE:.0%} or more at {sure} of {len(table)} R; "
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
    statement = f"{_named(surface.target)}: the best alpha falls with R with probability {falls:.2f}"
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
    statement = f"{_named(surface.target)}: from R = {repetitions[0]:g} on the best alpha is proportional to R to the power {low:.2f} to "
    statement += (
        f"{high:.2f} (90 % credible interval; -1 keeps alpha * R constant, and -1.5 to -0.5 has probability {near:.2f})"
    )
    return Part(by_probability(near), statement, {"low": float(low), "high": float(high), "probability": near})


def _prefix_wins(table: pd.DataFrame, family: Mapping[str, Target]) -> Part:
    """Decided by the mean difference and by the share of mixed points; all points have the error over windows in common.

    The correlation over documents of two scores of one model is not known, so none is assumed, which is cautious.
    """
    mixed = table[(table["alpha"] > 0) & (table["alpha"] < 1)]
    losses = LOSS in {target.family for target in family.values()}
    none = Part("cannot tell", "0 finished mixed runs have both readings of the same targets")
    if not {"prefix", "ar"} <= family.keys():
        return none
    target = family["prefix"]
    names = target.column, READINGS["ar_second_half"].metric if losses else family["ar"].column
    if not set(names) <= set(table.columns):
        return none
    runs = last(mixed, names[0]).dropna(subset=[names[1]])
    runs = runs.assign(difference=runs[names[0]] - runs[names[1]])
    points = over_seeds(runs, cells(table), ["difference"])
    if len(points) < 2:
        return Part("cannot tell", f"{len(points)} finished mixed runs have both readings of the same targets")
    errors = [points[name + "_se"].to_numpy() if name + "_se" in points else np.zeros(len(points)) for name in names]
    shared = np.nanmean(difference_error(errors[0], errors[1], correlation=SAME_MODEL if losses else 0.0))
    difference = points["difference"].to_numpy()
    mean, error = difference.mean(), np.hypot(difference.std(ddof=1) / np.sqrt(len(points)), shared)
    cost = target.cost(difference)
    wins = int((cost < 0).sum())
    share = binomtest(wins, len(points)).proportion_ci(2 * SURE - 1)
    limit = norm.ppf(SURE) * error
    verdict: Verdict = "cannot tell"
    if cost.mean() < -limit and share.low > 0.5:
        verdict = "shows"
    elif cost.mean() > limit and share.high < 0.5:
        verdict = "does not show"
    statement = (
        f"{names[0]} minus {names[1]} is {mean:+.4f} ± {error:.4f} {target.unit} over {len(points)} mixed points (R, alpha), "
        f"{wins} of which are better with a prefix"
    )
    return Part(verdict, statement, {"difference": mean, "se": error, "points": len(points), "better": wins})
