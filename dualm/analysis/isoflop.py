"""Scaling with compute: the best model size at every budget, with its tokens and its loss, for AR and for MD.

Approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2), which Nie et al. 2025 (SMDM, arXiv 2410.18514) apply
to masked diffusion (MD):

    at each budget C     loss = L* + c (ln N - ln N*)^2            a parabola, the iso-FLOP profile of its runs
    over the budgets     N* = a C^p    D* = b C^q    L* = E + k C^-r   (E = 0 with fewer than four minima)

N is the number of parameters without the input embedding, D the number of tokens, C the training FLOPs
(`size.flops_per_token`). The loss is the last validation loss of a run, the mean over its seeds. A parabola is accurate only near its minimum, so
it is fitted to sizes within a factor `REACH` of the best size. A minimum at the end of these sizes is reported as "at
most" or "at least" and is not used for the laws. The tokens at N* are interpolated between those of the sizes.

Intervals: the bootstrap resamples residuals and not runs, because a budget without one of its few sizes often has no
minimum. The residuals of all parabolas of a reading form one pool; this assumes the same noise at every budget. Each
residual is corrected for its leverage and gets a random sign. Each draw is scaled by sqrt(v / chi2(v)), where v is the
number of degrees of freedom of the pool, because the variance of so few residuals is itself uncertain. With three sizes
at every budget there are no residuals and no intervals. The intervals cover noise only. That the true curve is not a
parabola shifts N* by a few percent, by nearly the same factor at all budgets, and hardly changes the exponents
(tests/analysis/test_isoflop.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dualm.analysis.optimum import LEVEL, tails
from dualm.analysis.power_laws import ComputeGap, PowerLaw, compute_gap, fit_power_law
from dualm.analysis.replicates import cells, over_seeds
from dualm.analysis.table import LOSSES, PURE, last, pure_group
from dualm.errors import UserError
from dualm.randomness import stream

QUANTITIES = ("N", "D", "loss")
MINIMUM = {"sizes": 3, "budgets": 2}
MIN_FOR_FLOOR = 4  # minima: with E, k and r a law fits any three exactly
SAME_BUDGET = 1.1  # runs within this factor of FLOPs share a budget, which is rounded down to whole steps
REACH = 4.1  # a factor of four, with a margin for the rounding of sizes
DRAWS = 2000

Numbers = dict[str, np.ndarray]  # by quantity


@dataclass(frozen=True)
class Profile:
    """The runs of one budget and the minimum of the parabola through them, with 90 % confidence intervals."""

    flops: float  # C
    points: pd.DataFrame  # columns run, flops, N, D, loss, sorted by N: the runs that the parabola is fitted to
    curve: np.ndarray  # [3]: loss = curve @ [x^2, x, 1], x = ln N
    where: str  # the minimum is `inside` the sizes, `at most` the smallest, `at least` the largest
    best: Mapping[str, float]  # at the minimum, by quantity
    low: Mapping[str, float]
    high: Mapping[str, float]

    @property
    def is_inside(self) -> bool:
        return self.where == "inside"

    @property
    def has_intervals(self) -> bool:
        return not np.isnan(self.low["loss"])


@dataclass(frozen=True)
class IsoFlopFit:
    """The scaling of the runs with one objective only, in the reading that this objective trains."""

    reading: str  # `ar` or `md`
    group: str
    profiles: Sequence[Profile]  # by budget
    laws: Mapping[str, PowerLaw]  # by quantity, through the minima inside the sizes; empty if there are fewer than two

    @property
    def best_losses(self) -> dict[float, float]:
        """L* by budget, for minima inside the sizes."""
        return {profile.flops: profile.best["loss"] for profile in self.profiles if profile.is_inside}


def isoflop_fits(table: pd.DataFrame) -> tuple[list[IsoFlopFit], ComputeGap | None, list[str]]:
    """The fits that the finished runs of `table` allow, the gap between them, and one line for each fit that fails.

    For a table with one model size, all three are empty.
    """
    fits: list[IsoFlopFit] = []
    left_out: list[str] = []
    if table["parameters"].nunique() < 2:
        return fits, None, left_out
    for reading in PURE:
        try:
            fits.append(fit_isoflop(isoflop_points(table, reading), reading))
        except UserError as error:
            left_out.append(str(error))
    for fit in (fit for fit in fits if not fit.laws):
        found = f"got {len(fit.best_losses)} of {len(fit.profiles)} budgets with the lowest loss inside the sizes tried"
        left_out.append(f"power laws of {fit.group}: {found}, expected at least {MINIMUM['budgets']}")
    with_laws = {fit.reading: fit for fit in fits if fit.laws}
    gap = None
    if len(with_laws) == len(PURE):
        losses = {reading: fit.laws["loss"] for reading, fit in with_laws.items()}
        gap = compute_gap(losses, {reading: fit.best_losses for reading, fit in with_laws.items()})
    return fits, gap, left_out


def isoflop_points(table: pd.DataFrame, reading: str) -> pd.DataFrame:
    """Columns run, flops, N, D, loss at the end of the finished runs with one objective only, at their smallest R, by point."""
    for column in ("flops", LOSSES[reading]):
        if column not in table:
            raise UserError(
                f"iso-FLOP of {pure_group(reading)}: got a table without the column {column!r}, expected one with it"
            )
    rows = last(table[table["alpha"] == PURE[reading]], LOSSES[reading])
    rows = rows[rows["R"] == rows["R"].min()]
    named = {"flops": "flops", "N": "parameters", "D": "tokens", "loss": LOSSES[reading]}
    points = rows[["run"]].assign(**{name: rows[column].astype(float) for name, column in named.items()})
    return over_seeds(points, cells(table), ["loss"])


def fit_isoflop(points: pd.DataFrame, reading: str, seed: int = 0) -> IsoFlopFit:
    """The parabolas and laws through `points` (columns run, flops, N, D, loss). Raises UserError for too few points."""
    enough = [near_the_best(rows) for rows in by_budget(points) if rows["N"].nunique() >= MINIMUM["sizes"]]
    if len(enough) < MINIMUM["budgets"]:
        found = f"got {MINIMUM['sizes']} sizes or more at {len(enough)} budgets of {len(points)} finished runs"
        raise UserError(f"iso-FLOP of {pure_group(reading)}: {found}, expected at least {MINIMUM['budgets']} budgets")
    parabolas = [Parabola.of(rows) for rows in enough]
    losses = [rows["loss"].to_numpy() for rows in enough]
    errors = bootstrap_errors(parabolas, losses, stream(seed, f"isoflop {reading}"))
    drawn = [
        parabola.minimum(parabola.fitted(loss) + error)
        for parabola, loss, error in zip(parabolas, losses, errors, strict=True)
    ]
    profiles = [_profile(*each) for each in zip(enough, parabolas, drawn, strict=True)]
    inside = [n for n, profile in enumerate(profiles) if profile.is_inside]
    laws = {}
    if len(inside) >= MINIMUM["budgets"]:
        flops = np.array([profiles[n].flops for n in inside])
        for name in QUANTITIES:
            values = np.array([profiles[n].best[name] for n in inside])
            draws = np.stack([drawn[n][name] for n in inside], -1)
            laws[name] = fit_power_law(flops, values, draws, name == "loss" and len(inside) >= MIN_FOR_FLOOR)
    return IsoFlopFit(reading, pure_group(reading), profiles, laws)


def by_budget(points: pd.DataFrame) -> list[pd.DataFrame]:
    """The runs of each budget, in rising order."""
    ordered = points.sort_values("flops")
    steps = np.diff(np.log(ordered["flops"].to_numpy()), prepend=np.nan)
    return [rows for _, rows in ordered.groupby(np.cumsum(steps > np.log(SAME_BUDGET)))]


def near_the_best(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs with sizes within a factor `REACH` of the best size, at least three sizes, sorted by size."""
    sizes = np.log(rows["N"].to_numpy())
    distance = np.abs(sizes - sizes[rows["loss"].to_numpy().argmin()])
    third = np.unique(distance)[MINIMUM["sizes"] - 1]
    return rows[distance <= max(np.log(REACH), third)].sort_values("N").reset_index(drop=True)


@dataclass(frozen=True)
class Parabola:
    """A least-squares parabola in ln N, for any losses `[..., runs]` of the same runs."""

    sizes: np.ndarray  # ln N, [runs], in rising order
    tokens: np.ndarray  # ln D, [runs]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Parabola:
        return cls(np.log(rows["N"].to_numpy()), np.log(rows["D"].to_numpy()))

    @property
    def design(self) -> np.ndarray:
        """[x^2, x, 1] of each run, where x is ln N minus its mean, `[runs, 3]`."""
        return np.vander(self.sizes - self.sizes.mean(), 3)

    @property
    def hat(self) -> np.ndarray:
        """The hat matrix, from losses to fitted losses, `[runs, runs]`."""
        return self.design @ np.linalg.pinv(self.design)

    @property
    def freedom(self) -> int:
        """Degrees of freedom."""
        return len(self.sizes) - 3

    def fitted(self, losses: np.ndarray) -> np.ndarray:
        return losses @ self.hat.T

    def coefficients(self, losses: np.ndarray) -> np.ndarray:
        return losses @ np.linalg.pinv(self.design).T

    def vertex(self, losses: np.ndarray) -> np.ndarray:
        """The ln N of the minimum. For a parabola that opens downwards: infinite, on the side of its lower end."""
        square, slope, _ = np.moveaxis(self.coefficients(losses), -1, 0)
        rises = square * (self.sizes[0] + self.sizes[-1] - 2 * self.sizes.mean()) + slope > 0  # from end to end
        downwards = square <= 0
        inner = -slope / (2 * np.where(downwards, 1, square))
        return self.sizes.mean() + np.where(downwards, np.where(rises, -np.inf, np.inf), inner)

    def minimum(self, losses: np.ndarray) -> Numbers:
        """Size, tokens and loss at the minimum of the parabola over the sizes tried."""
        at = np.clip(self.vertex(losses), self.sizes[0], self.sizes[-1])
        powers = (at - self.sizes.mean())[..., None] ** np.array([2, 1, 0])
        loss = (self.coefficients(losses) * powers).sum(-1)
        return {"N": np.exp(at), "D": np.exp(np.interp(at, self.sizes, self.tokens)), "loss": loss}


def bootstrap_errors(
    parabolas: Sequence[Parabola], losses: Sequence[np.ndarray], rng: np.random.Generator
) -> list[np.ndarray]:
    """Noise to add to the losses of each parabola, `[draws, runs]` each; NaN if there are too few runs to estimate it."""
    freedom = sum(parabola.freedom for parabola in parabolas)
    if freedom == 0:
        return [np.full((DRAWS, len(loss)), np.nan) for loss in losses]
    pool = []
    for parabola, loss in zip(parabolas, losses, strict=True):
        kept = 1 - np.diag(parabola.hat)  # the fraction of a run's noise variance that remains in its residual
        usable = kept > 1e-6
        pool.append((loss - parabola.fitted(loss))[usable] / np.sqrt(kept[usable]))
    scale = np.sqrt(freedom / rng.chisquare(freedom, DRAWS))[:, None]
    shapes = [(DRAWS, len(loss)) for loss in losses]
    return [scale * rng.choice([-1, 1], shape) * rng.choice(np.concatenate(pool), shape) for shape in shapes]


def _profile(rows: pd.DataFrame, parabola: Parabola, drawn: Numbers) -> Profile:
    losses = rows["loss"].to_numpy()
    vertex, minimum = parabola.vertex(losses), parabola.minimum(losses)
    where = "inside"
    if not parabola.sizes[0] < vertex < parabola.sizes[-1]:
        where = "at most" if vertex <= parabola.sizes[0] else "at least"
    low, high = ({name: float(np.quantile(drawn[name], tail)) for name in QUANTITIES} for tail in tails(LEVEL))
    return Profile(
        flops=float(np.exp(np.log(rows["flops"]).mean())),
        points=rows,
        curve=np.polyfit(parabola.sizes, losses, 2),
        where=where,
        best={name: float(minimum[name]) for name in QUANTITIES},
        low=low,
        high=high,
    )


def minima_table(fits: Sequence[IsoFlopFit]) -> pd.DataFrame:
    """A row per reading and budget; `where` says whether the minimum is inside the sizes or beyond the size given."""
    rows = [
        {"reading": fit.reading, "flops": profile.flops, "runs": len(profile.points), "where": profile.where}
        | {f"{name}{suffix}": values[name] for name in QUANTITIES for suffix, values in _ends(profile)}
        | {"tokens_per_parameter": profile.best["D"] / profile.best["N"]}
        for fit in fits
        for profile in fit.profiles
    ]
    return pd.DataFrame(rows)


def _ends(profile: Profile) -> list[tuple[str, Mapping[str, float]]]:
    return [("", profile.best), ("_low", profile.low), ("_high", profile.high)]


def laws_table(fits: Sequence[IsoFlopFit]) -> pd.DataFrame:
    """A row per reading and quantity (N, D, loss): the law, and the 90 % confidence interval of its exponent."""
    names = ("form", "floor", "scale", "exponent", "exponent_low", "exponent_high", "budgets")
    rows = [
        {"reading": fit.reading, "quantity": quantity, **{name: getattr(law, name) for name in names}}
        for fit in fits
        for quantity, law in fit.laws.items()
    ]
    return pd.DataFrame(rows, columns=["reading", "quantity", *names])
