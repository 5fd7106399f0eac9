"""The response surface: a Gaussian process over the number of repetitions R and the AR ratio alpha.

The inputs are log2 R and `separate(alpha)`. The process is that of `process`: an anisotropic Matérn 3/2 covariance plus white noise, with
the parameters of highest marginal likelihood (Rasmussen and Williams 2006, "R&W").

A ratio that never trains an objective has a loss several nats higher in its reading, while the other ratios differ by
hundredths of a nat. A stationary process cannot model such a step, so the process models log(cost - floor). The floor lies
below the lowest cost and is chosen by marginal likelihood; "no floor and no logarithm" is one of the choices (Snelson,
Rasmussen and Ghahramani 2004, warped Gaussian processes). The warp is monotone, so it does not move the optimum.

Error model: all runs are validated on the same windows, so they share the standard error over windows. It shifts the
surface but does not change its shape, and is not part of the noise. With one seed the white noise models the effects of seed
and shuffling. Several seeds of one (R, alpha) are one point, their mean over n seeds, with the known noise v/n; the white noise
is then what the surface misses beside it. v is the variance of one run in standardised targets, on a line fitted through the
logarithms of the variances of all points with several seeds: the variance of three seeds alone is uncertain by a factor of
several, and three that happen to agree would fix the surface; but runs far above the floor may well differ more than the best.
Points with an error of their own (`se`, measured on different data) get it in addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import digamma, polygamma
from scipy.stats import norm

from dualm.analysis.process import Process
from dualm.analysis.table import Target
from dualm.errors import UserError
from dualm.randomness import stream

EDGE = 1 / 512  # half the distance of 1/256 from 0
FLOORS = (None, 1.0, 0.3)  # distance below the lowest cost, in units of (median - lowest cost)
MINIMUM = {"points": 6, "R": 2, "alpha": 3}
MIN_FOR_TREND = 8  # points with several seeds: with fewer their noise is taken as equal
INSIDE = (50, 80, 95)  # percent: the intervals whose coverage is checked


def separate(alpha: np.ndarray) -> np.ndarray:
    """alpha in [0, 1] -> logit(alpha (1 - 2e) + e), e = 1/512: an odd function of alpha - 1/2 on [-6.24, 6.24].

    The published ratios 0, 1/256, 1/64, ..., 63/64, 255/256, 1 lie 0.7 to 1.6 apart.
    """
    inner = np.asarray(alpha, float) * (1 - 2 * EDGE) + EDGE
    return np.log(inner) - np.log1p(-inner)


def unite(separated: np.ndarray) -> np.ndarray:
    """The inverse of `separate`."""
    return np.clip((1 / (1 + np.exp(-np.asarray(separated))) - EDGE) / (1 - 2 * EDGE), 0, 1)


@dataclass(frozen=True)
class Warp:
    """The map from a value to the standardised target of the process, where lower is better."""

    sign: int  # 1 for losses, -1 for scores
    floor: float | None
    center: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, values: np.ndarray, higher_is_better: bool, below: float | None) -> Warp:
        """The warp that standardises `values`; `below` is one of `FLOORS`."""
        cost = -values if higher_is_better else values
        gap = np.median(cost) - cost.min()
        raw = cls(-1 if higher_is_better else 1, None if below is None else cost.min() - below * gap)
        target = raw.forward(values)
        return cls(raw.sign, raw.floor, float(target.mean()), float(target.std()))

    def forward(self, values: np.ndarray) -> np.ndarray:
        cost = self.sign * values
        return ((cost if self.floor is None else np.log(cost - self.floor)) - self.center) / self.spread

    def inverse(self, targets: np.ndarray) -> np.ndarray:
        raw = targets * self.spread + self.center
        return self.sign * (raw if self.floor is None else self.floor + np.exp(raw))

    def slope(self, values: np.ndarray) -> np.ndarray:
        """d target / d cost."""
        inner = 1 if self.floor is None else self.sign * values - self.floor
        return 1 / (self.spread * inner * np.ones_like(values))


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out prediction of each point from all others, with the fitted hyper-parameters."""

    r2: float
    typical_error: float  # median absolute residual, in the unit of the values
    inside: dict[int, float]  # coverage: percent of a central interval -> fraction of the points inside it
    points: pd.DataFrame  # columns R, alpha, value, predicted, low, high (95 %)


@dataclass(frozen=True)
class Surface:
    """A fitted surface. Methods return values in the unit of the data, with intervals of the noise-free surface."""

    name: str
    higher_is_better: bool
    points: pd.DataFrame  # columns R, alpha, value (, seeds, value_sd) (, se)
    warp: Warp
    process: Process
    replicate: float = (
        0.0  # median variance over seeds of one run, in standardised targets; 0 if no point has two seeds
    )

    @property
    def target(self) -> Target:
        return Target.named(self.name)

    @property
    def noise(self) -> float:
        """Standard deviation of one run about the surface, in standardised targets."""
        return float(np.sqrt(self.process.noise + self.replicate))

    def predict(self, repetitions: np.ndarray, alphas: np.ndarray) -> pd.DataFrame:
        """Columns R, alpha, median, low, high (90 % credible interval) on the grid of both inputs."""
        inputs = grid(repetitions, alphas)
        mean, reach = self.process.mean(inputs), norm.ppf(0.95) * self.process.deviation(inputs)
        ends = np.sort([self.warp.inverse(mean - reach), self.warp.inverse(mean + reach)], axis=0)
        R, alpha = (each.ravel() for each in np.meshgrid(repetitions, alphas, indexing="ij"))
        median = self.warp.inverse(mean)
        return pd.DataFrame({"R": R, "alpha": alpha, "median": median, "low": ends[0], "high": ends[1]})

    def draw_targets(self, inputs: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
        """Joint posterior samples of the standardised targets at `inputs` `[n, 2]`: `[draws, n]`, lower is better."""
        mean, covariance = self.process.posterior(inputs)
        scale, directions = np.linalg.eigh(covariance)
        root = directions * np.sqrt(np.maximum(scale, 0))
        return mean + stream(seed, "surface").standard_normal((draws, len(inputs))) @ root.T

    def draw(self, repetitions: np.ndarray, alphas: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
        """Joint posterior samples on the grid, `[draws, repetitions, alphas]`."""
        targets = self.draw_targets(grid(repetitions, alphas), draws, seed)
        return self.warp.inverse(targets).reshape(draws, len(repetitions), len(alphas))

    @cached_property
    def leave_one_out(self) -> LeaveOneOut:
        """Leave-one-out predictions from the inverse covariance, without refitting (R&W eq. 5.12).

        All seeds of a point are left out together.
        """
        process, values = self.process, self.points["value"].to_numpy()
        target = process.targets
        mean, deviation = target - process.weights / process.precision, 1 / np.sqrt(process.precision)
        reach = norm.ppf(0.975) * deviation
        ends = np.sort([self.warp.inverse(mean - reach), self.warp.inverse(mean + reach)], axis=0)
        predicted, z = self.warp.inverse(mean), np.abs(target - mean) / deviation
        residual = values - predicted
        points = self.points[["R", "alpha", "value"]].assign(predicted=predicted, low=ends[0], high=ends[1])
        return LeaveOneOut(
            r2=float(1 - np.sum(residual**2) / np.sum((values - values.mean()) ** 2)),
            typical_error=float(np.median(np.abs(residual))),
            inside={percent: float(np.mean(z < norm.ppf(0.5 + percent / 200))) for percent in INSIDE},
            points=points,
        )


def grid(repetitions: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Inputs of the process on the grid of R and alpha, `[repetitions * alphas, 2]`."""
    R, alpha = np.meshgrid(np.log2(repetitions), separate(np.asarray(alphas)), indexing="ij")
    return np.column_stack([R.ravel(), alpha.ravel()])


def fit_surface(
    points: pd.DataFrame, name: str, higher_is_better: bool = False, seed: int = 0, restarts: int = 4
) -> Surface:
    """The surface fitted to `points`, of which `surface_points` makes the columns. Raises UserError for too few points.

    R, alpha and value are enough; `seeds` with `value_sd` and `se` are optional.
    """
    found = {"points": len(points), "R": points["R"].nunique(), "alpha": points["alpha"].nunique()}
    if any(found[what] < minimum for what, minimum in MINIMUM.items()) or points["value"].nunique() < 2:
        expected = (
            f"at least {MINIMUM['points']} points at {MINIMUM['R']} R and {MINIMUM['alpha']} alpha, with two values"
        )
        raise UserError(
            f"surface of {name}: got {found['points']} points at {found['R']} R and {found['alpha']} alpha, expected {expected}"
        )
    fitted = [_fit_warped(points, name, higher_is_better, below, seed, restarts) for below in FLOORS]
    return max(fitted, key=lambda pair: pair[1])[0]


def _fit_warped(
    points: pd.DataFrame, name: str, higher_is_better: bool, below: float | None, seed: int, restarts: int
) -> tuple[Surface, float]:
    """The surface under one warp, and the log likelihood of its values (R&W eq. 2.30 plus the warp's Jacobian)."""
    values = points["value"].to_numpy(float)
    warp = Warp.of(values, higher_is_better, below)
    inputs = np.column_stack([np.log2(points["R"]), separate(points["alpha"].to_numpy())])
    errors = points["se"].to_numpy() * warp.slope(values) if "se" in points else np.zeros(len(points))
    replicate = replicate_variance(points, warp)
    seeds = points["seeds"].to_numpy() if "seeds" in points else 1
    process = Process.fit(inputs, warp.forward(values), errors**2 + replicate / seeds, seed, restarts)
    surface = Surface(name, higher_is_better, points.reset_index(drop=True), warp, process, float(np.median(replicate)))
    return surface, float(process.likelihood + np.log(warp.slope(values)).sum())


def replicate_variance(points: pd.DataFrame, warp: Warp) -> np.ndarray:
    """The variance over seeds of one run at each point, in standardised targets `[points]`; 0 if no point has two seeds that differ.

    Its logarithm is a straight line in the target, or a constant with few points, by least squares on the logarithms of the
    measured variances. These are corrected for their bias and weighted by their precision (moments of a log chi-square variable).
    """
    targets = warp.forward(points["value"].to_numpy(float))
    several = points["seeds"].to_numpy() > 1 if "seeds" in points else np.zeros(len(points), bool)
    if not several.any() or not (spread := np.median(points["value_sd"][several])):
        return np.zeros(len(points))
    half = (points["seeds"].to_numpy()[several] - 1) / 2
    sd = np.maximum(points["value_sd"].to_numpy()[several], 1e-3 * spread)
    logs = 2 * np.log(sd * warp.slope(points["value"].to_numpy(float)[several])) - digamma(half) + np.log(half)
    line = np.polyfit(targets[several], logs, int(several.sum() >= MIN_FOR_TREND), w=polygamma(1, half) ** -0.5)
    ends = targets[several].min(), targets[several].max()
    return np.exp(np.polyval(line, np.clip(targets, *ends)))
