"""Time samplers: how the mask rate t of masked diffusion is drawn.

A sampler is a way to draw quantiles u in [0, 1) for the n sequences of a global batch that share an
objective, and a density given by its inverse CDF. The two ends matter separately: stratified draws
lower the variance of the batch loss, the density decides where training effort goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def independent(rng: np.random.Generator, n: int) -> np.ndarray:
    """u_j ~ U[0, 1), independent."""
    return rng.random(n)


def stratified(rng: np.random.Generator, n: int) -> np.ndarray:
    """u_j = (u_0 + j/n) mod 1: one draw spread evenly (the low-discrepancy sampler of VDM, appendix I.1)."""
    return (rng.random() + np.arange(n) / n) % 1.0


def flat_density(u: float) -> float:
    """t ~ U(0, 1]."""
    return 1.0 - u


@dataclass(frozen=True)
class TimeSampler:
    draw: Callable[[np.random.Generator, int], np.ndarray]
    quantile: Callable[[float], float]  # u in [0, 1) -> t in (0, 1]
    mean: float  # E[t]


TIME_SAMPLERS = {
    "uniform": TimeSampler(independent, flat_density, 0.5),
    "stratified": TimeSampler(stratified, flat_density, 0.5),
}
