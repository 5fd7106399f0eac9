"""How the mask rate t of masked diffusion is drawn: two choices, each in a registry by name.

    DRAWS       quantiles u of the n sequences of a global batch that share an objective: iid | stratified
    DENSITIES   q(t), by its inverse CDF: where training effort goes

Stratified draws lower the variance of the batch loss. Ours is the low-discrepancy sampler of VDM: one offset for all n strata.
(`antithetic_sampling` in MDLM's code draws in each stratum independently.) The density decides what is learned first. The
weight of a masked token is a third choice: `dualm.objectives.masked_diffusion.WEIGHTINGS`.

A noise schedule of MDLM is a density: with s ~ U(0, 1) its mask rate is t(s) = 1 - alpha_s, and its weight
-alpha'_s / (1 - alpha_s) is 1 / (t q(t)), the weighting `importance`. They go by several names:

    ours             t(s)                  alpha_s                      elsewhere
    uniform          s                     1 - s                        `loglinear` in MDLM's code, linear in MD4
    cosine_md4       sin(pi s / 2)         1 - cos(pi (1 - s) / 2)      cosine in MD4: most of the time at high mask rates
    cosine_mdlm      1 - cos(pi s / 2)     cos(pi s / 2)                `cosine` in MDLM's code: most of it at low ones
    cosine_squared   sin(pi s / 2)^2       cos(pi s / 2)^2              `cosinesqr` in MDLM's code
    linear_sigma     1 - exp(-sigma(s))    exp(-sigma(s))               `linear` in MDLM's code: sigma rises in a straight line
    geometric        1 - exp(-sigma(s))    exp(-sigma(s))               the same there and in SEDD: log sigma does
    polynomial       s^power               1 - s^power                  polynomial in MD4

MDLM's code (kuleshov-group/mdlm, noise_schedule.py) keeps a thousandth of the signal, alpha_1 = 0.001, in `loglinear`, `cosine` and
`cosinesqr`; here alpha_1 = 0. With `objective.time_steps` = T > 0 time takes the T values s = 1/T, 2/T, ..., 1: see `on_grid`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
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
    """A Gaussian truncated to [smallest, 1] (our reading of Hong et al. 2026, whose abstract does not state the density)."""
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


def cosine_md4() -> Density:
    """t = sin(pi s / 2): alpha_s = 1 - cos(pi (1 - s) / 2) (MD4: Shi et al. 2024, table 1)."""
    return Density(
        inverse=lambda s: math.sin(math.pi * s / 2),
        cdf=lambda t: 2 / math.pi * math.asin(t),
        slope=lambda t: math.pi / 2 * math.sqrt(max(0.0, 1 - t * t)),
        mean=2 / math.pi,
    )


def cosine_mdlm() -> Density:
    """t = 1 - cos(pi s / 2): alpha_s = cos(pi s / 2) (`CosineNoise` in MDLM's code)."""
    return Density(
        inverse=lambda s: 2 * math.sin(math.pi * s / 4) ** 2,  # the same, and above 0 for every s > 0
        cdf=lambda t: 4 / math.pi * math.asin(math.sqrt(t / 2)),
        slope=lambda t: math.pi / 2 * math.sqrt(t * (2 - t)),
        mean=1 - 2 / math.pi,
    )


def cosine_squared() -> Density:
    """t = sin(pi s / 2)^2: alpha_s = cos(pi s / 2)^2 (`CosineSqrNoise` in MDLM's code)."""
    return Density(
        inverse=lambda s: math.sin(math.pi * s / 2) ** 2,
        cdf=lambda t: 2 / math.pi * math.asin(math.sqrt(t)),
        slope=lambda t: math.pi * math.sqrt(t * (1 - t)),
        mean=0.5,
    )


def linear_sigma(smallest: float, largest: float) -> Density:
    """t = 1 - exp(-sigma), sigma = (1 - s) smallest + s largest (`Linear` in MDLM's code). Rates outside stay untrained."""
    span = largest - smallest
    return Density(
        inverse=lambda s: -math.expm1(-(smallest + span * s)),
        cdf=lambda t: min(1.0, max(0.0, (_noise(t) - smallest) / span)),
        slope=lambda t: span * (1 - t),
        mean=1 - (math.exp(-smallest) - math.exp(-largest)) / span,
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
    """t = 1 - exp(-sigma), sigma = smallest^(1-s) largest^s (SEDD; `GeometricNoise` in MDLM's code). Rates outside stay untrained."""
    span = math.log(largest / smallest)

    def inverse(s: float) -> float:
        return -math.expm1(-smallest * math.exp(span * s))

    return Density(
        inverse=inverse,
        cdf=lambda t: min(1.0, max(0.0, math.log(max(_noise(t), 1e-300) / smallest) / span)),
        slope=lambda t: span * _noise(t) * (1 - t),
        mean=float(np.mean([inverse((i + 0.5) / 10_000) for i in range(10_000)])),
    )


def _noise(t: float) -> float:
    """sigma of the mask rate t = 1 - exp(-sigma)."""
    return -math.log1p(-min(t, 1 - 1e-15))


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
        "cosine_md4": lambda config: cosine_md4(),
        "cosine_mdlm": lambda config: cosine_mdlm(),
        "cosine_squared": lambda config: cosine_squared(),
        "linear_sigma": lambda config: linear_sigma(*config.time_sigma),
        "polynomial": lambda config: polynomial(config.time_power),
        "geometric": lambda config: geometric(*config.time_noise),
    },
)


def on_grid(density: Density, steps: int) -> Density:
    """`density` with time in `steps` equal steps: t is one of t_i = t(i / steps), each as likely; 0 steps: as it is.

    What masks at rate t_i and weighs by `slope` / t_i = steps (t_i - t_(i-1)) / t_i, t_0 = 0, has the discrete-time bound as its mean
    (`_d3pm_loss` in MDLM's code, with SUBS): a token masked at t_i is revealed in step i with probability (t_i - t_(i-1)) / t_i. For
    uniform t the weight is 1 / t_i, as in continuous time; only the rates differ.
    """
    if not steps:
        return density
    rates = [0.0, *(density.inverse(i / steps) for i in range(1, steps + 1))]

    def slope(t: float) -> float:
        step = bisect_left(rates, t)
        return steps * (rates[step] - rates[step - 1])

    return Density(
        inverse=lambda s: rates[math.ceil(steps * s)],
        cdf=lambda t: (bisect_right(rates, t) - 1) / steps,
        slope=slope,
        mean=sum(rates) / steps,
    )


def density(config: ObjectiveConfig) -> Density:
    """The density that `objective.time` names, on the grid of `objective.time_steps`. Raises UserError."""
    return on_grid(DENSITIES.choose(config.time)(config), config.time_steps)
