"""A Gaussian process with an anisotropic Matérn 3/2 covariance plus white noise (Rasmussen and Williams 2006, "R&W").

    k(x, x') = v (1 + √3 d) exp(-√3 d),    d² = Σ_i (x_i - x'_i)² / l_i²

The variance v, the length scales l and the variance of the noise are those of the highest marginal likelihood (R&W section 5.4.1), found along
its analytic gradient (R&W eq. 5.9) from several starts. Its cost grows with the cube of the number of points. With more than `SUBSET`
points, the four numbers are chosen on a random subset of them ("subset of data", R&W section 8.3.3); predictions rest on all points.

Shapes: N points, D inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, get_lapack_funcs, solve_triangular
from scipy.optimize import minimize

from dualm.randomness import stream

SUBSET = 300
START = (1.0, 3.0, 4.0, 1e-2)  # variance, length scales, noise
BOUNDS = (
    (1e-2, 1e2),
    (0.5, 50),
    (0.5, 50),
    (1e-3, 1),
)  # less noise than 1e-3 of the variance would interpolate, with far too small intervals
JITTER = 1e-10


@dataclass(frozen=True)
class Process:
    """A process with chosen parameters, given targets `[N]` with known error variances `[N]` at inputs `[N, D]`."""

    inputs: np.ndarray
    targets: np.ndarray
    errors: np.ndarray
    variance: float
    scales: np.ndarray  # [D]
    noise: float

    @classmethod
    def fit(cls, inputs: np.ndarray, targets: np.ndarray, errors: np.ndarray, seed: int, restarts: int) -> Process:
        """The process whose parameters have the highest marginal likelihood, sought from `START` and `restarts` random places."""
        rng, bounds = stream(seed, "process"), np.log(BOUNDS)
        chosen = np.arange(len(targets))
        if len(targets) > SUBSET:
            chosen = np.sort(rng.choice(len(targets), SUBSET, replace=False))
        few = inputs[chosen], targets[chosen], errors[chosen]
        starts = [np.log(START), *rng.uniform(*bounds.T, size=(restarts, len(bounds)))]
        found = [minimize(_negative, start, few, "L-BFGS-B", jac=True, bounds=bounds) for start in starts]
        variance, *scales, noise = np.exp(min(found, key=lambda each: each.fun).x)
        return cls(inputs, targets, errors, float(variance), np.array(scales), float(noise))

    def covariance(self, these: np.ndarray, those: np.ndarray) -> np.ndarray:
        """Of the noise-free targets at two sets of inputs, `[these, those]`."""
        return self.variance * _matern(_squares(these, those, self.scales).sum(-1))[0]

    @cached_property
    def factor(self) -> np.ndarray:
        """The lower Cholesky factor of the covariance of the targets, noise included, `[N, N]`."""
        whole = self.covariance(self.inputs, self.inputs)
        whole[np.diag_indices_from(whole)] += self.noise + self.errors + JITTER
        return np.linalg.cholesky(whole)

    @cached_property
    def weights(self) -> np.ndarray:
        """The inverse covariance times the targets, `[N]`."""
        return cho_solve((self.factor, True), self.targets)

    @cached_property
    def likelihood(self) -> float:
        """The log marginal likelihood of all targets (R&W eq. 2.30)."""
        return _log_likelihood(self.factor, self.targets, self.weights)

    @cached_property
    def precision(self) -> np.ndarray:
        """The diagonal of the inverse covariance of the targets, `[N]`."""
        return np.square(_inverse_factor(self.factor)).sum(0)

    def mean(self, inputs: np.ndarray) -> np.ndarray:
        """Posterior mean of the noise-free targets, `[n]` from `[n, D]` (R&W eq. 2.25)."""
        return self.covariance(inputs, self.inputs) @ self.weights

    def deviation(self, inputs: np.ndarray) -> np.ndarray:
        """Their posterior standard deviation, `[n]`."""
        half = solve_triangular(self.factor, self.covariance(self.inputs, inputs), lower=True)
        return np.sqrt(np.maximum(self.variance - np.square(half).sum(0), 0))

    def posterior(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean `[n]` and covariance `[n, n]` of the noise-free targets (R&W eq. 2.25, 2.26)."""
        across = self.covariance(self.inputs, inputs)
        half = solve_triangular(self.factor, across, lower=True)
        return self.weights @ across, self.covariance(inputs, inputs) - half.T @ half


def _squares(these: np.ndarray, those: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Squared differences in units of the length scales, `[these, those, D]`."""
    return np.square((these[:, None] - those) / scales)


def _matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Matérn 3/2 correlation at these squared distances, and its factor exp(-√3 d)."""
    distance = np.sqrt(3 * squares)
    fall = np.exp(-distance)
    return (1 + distance) * fall, fall


def _log_likelihood(factor: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(-targets @ weights / 2 - np.log(np.diag(factor)).sum() - len(targets) * np.log(2 * np.pi) / 2)


def _inverse_factor(factor: np.ndarray) -> np.ndarray:
    (invert,) = get_lapack_funcs(("trtri",), (factor,))
    return invert(factor, lower=1)[0]


def _negative(
    logs: np.ndarray, inputs: np.ndarray, targets: np.ndarray, errors: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus the log marginal likelihood, and its gradient in the logarithms of variance, length scales and noise (R&W eq. 5.9)."""
    variance, *scales, noise = np.exp(logs)
    squares = _squares(inputs, inputs, np.array(scales))
    correlation, fall = _matern(squares.sum(-1))
    covariance = variance * correlation
    covariance[np.diag_indices_from(covariance)] += noise + errors + JITTER
    factor = np.linalg.cholesky(covariance)
    inverse = _inverse_factor(factor)
    weights = inverse.T @ (inverse @ targets)
    surplus = np.outer(weights, weights) - inverse.T @ inverse
    along = surplus * fall
    slopes = [variance * np.vdot(surplus, correlation)]
    slopes += [
        3 * variance * np.vdot(along, squares[..., i]) for i in range(len(scales))
    ]  # dk / d log l = 3 v Δ²/l² exp(-√3 d)
    slopes += [noise * np.trace(surplus)]
    return -_log_likelihood(factor, targets, weights), -np.array(slopes) / 2
