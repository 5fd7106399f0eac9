"""How the mask rate t of masked diffusion is drawn: two choices, each in a registry by name.

    DRAWS       quantiles u of the n sequences of a global batch that share an objective: iid | stratified
    DENSITIES   q(t), by its inverse CDF: where training effort goes

Stratified draws lower the variance of the batch loss. Ours is the low-discrepancy sampler of VDM: one offset for all n strata.
(`antithetic_sampling` in MDLM's code draws in each stratum independently.) The density decides what is learned first. The
weight of a masked token is a third choice: `dualm.objectives.masked_diffusion.WEIGHTINGS`.

A noise schedule of MDLM is a density: with s ~ U(0, 1) its mask rate is t(s) = 1 - alpha_s, and its weight
-alpha'_s / (1 - alpha_s) is 1 / (t q(t)), the weighting `importance`. Log-linear noise is `uniform`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dualm.config import ObjectiveConfig
from dualm.registry import Registry


def iid(rng: np.random.Generator, n: int) -> np.ndarray:
    """u_j ~ U[0, 1), independent."""
    return rng.random(n)


def stratified(rng: np.random.Generator, n: int) -> np.ndarray:
    """u_j = (u_0 + j/n) mod 1: one draw spread evenly (the low-discrepancy sampler of VDM, appendix I.1)."""
    return (rng.random() + np.arange(n) / n) % 1.0


DRAWS: Registry[Callable[[np.random.Generator, int], np.ndarray]] = Registry(
    "objective.draws", {"stratified": stratified, "iid": iid}
)


@dataclass(frozen=True)
class Density:
    """A density q over t in (0, 1]."""

    inverse: Callable[[float], float]  # s in (0, 1] -> t, non-decreasing
    cdf: Callable[[float], float]
    slope: Callable[[float], float]  # dt/ds = 1 / q(t)
    mean: float  # E[t]

    def quantile(self, u: float) -> float:
        """t for u in [0, 1), the largest first."""
        return self.inverse(1.0 - u)


UNIFORM = Density(inverse=lambda s: s, cdf=lambda t: t, slope=lambda t: 1.0, mean=0.5)


def bell(mean: float, std: float, smallest: float) -> Density:
    """A Gaussian truncated to [smallest, 1] (Hong et al. 2026; their exact density is not public)."""
    normal = NormalDist(mean, std)
    below = normal.cdf(smallest)
    mass = normal.cdf(1.0) - below
    shift = std**2 * (normal.pdf(smallest) - normal.pdf(1.0)) / mass  # of the mean, by the truncation
    return Density(
        inverse=lambda s: min(1.0, max(smallest, normal.inv_cdf(min(below + s * mass, 1 - 1e-16)))),
        cdf=lambda t: min(1.0, max(0.0, (normal.cdf(t) - below) / mass)),
        slope=lambda t: mass / normal.pdf(t),
        mean=mean + shift,
    )


def beta(a: float, b: float) -> Density:
    """Beta(a, b)."""
    from scipy import special, stats

    return Density(
        inverse=lambda s: max(1e-12, float(special.betaincinv(a, b, s))),
        cdf=lambda t: float(special.betainc(a, b, t)),
        slope=lambda t: 1 / max(1e-12, float(stats.beta.pdf(t, a, b))),
        mean=a / (a + b),
    )


def cosine() -> Density:
    """t = sin(pi s / 2): alpha_s = 1 - cos(pi (1 - s) / 2) (MDLM, appendix E.1)."""
    return Density(
        inverse=lambda s: math.sin(math.pi * s / 2),
        cdf=lambda t: 2 / math.pi * math.asin(t),
        slope=lambda t: math.pi / 2 * math.sqrt(max(0.0, 1 - t * t)),
        mean=2 / math.pi,
    )


def polynomial(power: float) -> Density:
    """t = s^power: alpha_s = 1 - s^power (MD4: Shi et al. 2024, table 1)."""
    return Density(
        inverse=lambda s: s**power,
        cdf=lambda t: t ** (1 / power),
        slope=lambda t: power * t ** (1 - 1 / power),
        mean=1 / (power + 1),
    )


def geometric(smallest: float, largest: float) -> Density:
    """t = 1 - exp(-sigma), sigma = smallest^(1-s) largest^s (SEDD and MDLM, appendix E.1). Rates outside stay untrained."""
    span = math.log(largest / smallest)

    def noise(t: float) -> float:
        return -math.log1p(-min(t, 1 - 1e-15))

    def inverse(s: float) -> float:
        return -math.expm1(-smallest * math.exp(span * s))

    return Density(
        inverse=inverse,
        cdf=lambda t: min(1.0, max(0.0, math.log(max(noise(t), 1e-300) / smallest) / span)),
        slope=lambda t: span * noise(t) * (1 - t),
        mean=float(np.mean([inverse((i + 0.5) / 10_000) for i in range(10_000)])),
    )


def histogram(shares: Sequence[float]) -> Density:
    """Bins of one width over (0, 1], the i-th holding `shares[i]` > 0 of the mass."""
    edges = np.linspace(0, 1, len(shares) + 1)
    below = np.concatenate([[0.0], np.cumsum(shares)])
    below /= below[-1]
    heights = np.diff(below) * len(shares)

    def bin_of(t: float) -> int:
        return min(len(shares) - 1, max(0, math.ceil(t * len(shares)) - 1))

    return Density(
        inverse=lambda s: float(np.interp(s, below, edges)),
        cdf=lambda t: float(np.interp(t, edges, below)),
        slope=lambda t: 1 / float(heights[bin_of(t)]),
        mean=float(np.diff(below) @ (edges[1:] + edges[:-1]) / 2),
    )


BINS = 20  # of the learned density


DENSITIES: Registry[Callable[[ObjectiveConfig], Density]] = Registry(
    "objective.time",
    {
        "uniform": lambda config: UNIFORM,
        "bell": lambda config: bell(config.time_mean, config.time_std, config.time_min),
        "beta": lambda config: beta(*config.time_beta),
        "learned": lambda config: histogram([1.0] * BINS),  # where it begins: see dualm.training.learned_time
        "cosine": lambda config: cosine(),
        "polynomial": lambda config: polynomial(config.time_power),
        "geometric": lambda config: geometric(*config.time_noise),
    },
)


def density(config: ObjectiveConfig) -> Density:
    """The density that `objective.time` names. Raises UserError."""
    return DENSITIES.choose(config.time)(config)
