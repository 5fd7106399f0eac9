"""Power laws of training compute, and the compute gap: the ratio of the compute of MD to that of AR at equal loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dualm.analysis.charts import budget_label, interval_label
from dualm.analysis.optimum import LEVEL, tails
from dualm.analysis.table import PURE

POWERS = np.geomspace(0.005, 2, 300)  # r of E + k C^-r


@dataclass(frozen=True)
class PowerLaw:
    """E + k C^p over training FLOPs C, with the 90 % confidence interval of p."""

    form: str  # `k C^p`, or `E + k C^p`
    floor: float  # E; 0 in a plain power law
    scale: float  # k
    exponent: float  # p
    exponent_low: float
    exponent_high: float
    budgets: int
    draws: np.ndarray  # [draws, 3]: E, log k, p

    def at(self, flops: np.ndarray) -> np.ndarray:
        return self.floor + self.scale * flops**self.exponent

    @property
    def exponent_label(self) -> str:
        return interval_label(self.exponent, self.exponent_low, self.exponent_high, "{:.3f}".format)


def fit_power_law(flops: np.ndarray, values: np.ndarray, draws: np.ndarray, with_floor: bool) -> PowerLaw:
    """The law through `values` `[budgets]` at `flops` `[budgets]`; `draws` `[draws, budgets]` are bootstrap samples.

    A law without floor is a straight line in logarithms. With a floor, E >= 0 and k are fitted by least squares for each
    exponent in `POWERS`, and the best of these fits is used.
    """
    fit = _with_floor if with_floor else _plain
    floor, log_scale, exponent = fit(np.log(flops), values[None])[0]
    samples = fit(np.log(flops), draws)
    low, high = np.quantile(samples[:, 2], tails(LEVEL))
    form = "E + k C^p" if with_floor else "k C^p"
    return PowerLaw(form, floor, np.exp(log_scale), exponent, low, high, len(flops), samples)


def _plain(log_flops: np.ndarray, values: np.ndarray) -> np.ndarray:
    """E = 0, log k and p, `[n, 3]`, for each row of `values` `[n, budgets]`."""
    design = np.column_stack([np.ones_like(log_flops), log_flops])
    line = np.log(values) @ np.linalg.pinv(design).T
    return np.column_stack([np.zeros(len(values)), line])


def _with_floor(log_flops: np.ndarray, values: np.ndarray) -> np.ndarray:
    """E, log k and p, `[n, 3]`, for each row of `values` `[n, budgets]`."""
    center = log_flops.mean()
    terms = np.exp(-POWERS[:, None] * (log_flops - center))  # [powers, budgets]
    designs = np.stack([np.ones_like(terms), terms], -1)  # [powers, budgets, 2]
    floor, scale = np.moveaxis(np.einsum("rkb,nb->nrk", np.linalg.pinv(designs), values), -1, 0)
    without_floor = (values @ terms.T) / (terms**2).sum(-1)  # the best scale for floor 0
    floor, scale = np.where(floor < 0, 0, floor), np.where(floor < 0, without_floor, scale)
    misfit = floor[..., None] + scale[..., None] * terms - values[:, None]
    best = (misfit**2).sum(-1).argmin(-1)
    rows, powers = np.arange(len(values)), POWERS[best]
    log_scale = np.log(np.maximum(scale[rows, best], 1e-12)) + powers * center
    return np.column_stack([floor[rows, best], log_scale, -powers])


@dataclass(frozen=True)
class ComputeGap:
    """How many times the compute of autoregression (AR) masked diffusion (MD) needs for the same loss."""

    loss: float | None  # nats per token: the middle of the losses that both reach; None if there is no such loss
    factor: float | None
    low: float | None  # 90 % confidence interval
    high: float | None
    statement: str


def compute_gap(laws: Mapping[str, PowerLaw], reached: Mapping[str, Mapping[float, float]]) -> ComputeGap:
    """The gap between the `laws` of the best loss of `ar` and `md`.

    The laws are compared where both have runs: in the middle of the losses that both reach. `reached` holds the best loss
    of each at every budget (FLOPs: nats per token).
    """
    low = max(min(losses.values()) for losses in reached.values())
    high = min(max(losses.values()) for losses in reached.values())
    if low > high:
        return ComputeGap(None, None, None, None, _not_reached(reached))
    loss = (low + high) / 2
    ar, md = (laws[reading] for reading in PURE)
    factor = np.exp(_log_compute(_parameters(md), loss) - _log_compute(_parameters(ar), loss))
    with np.errstate(over="ignore"):
        samples = np.exp(_log_compute(md.draws, loss) - _log_compute(ar.draws, loss))
    smallest, largest = np.quantile(samples, tails(LEVEL), method="inverted_cdf")  # some may be infinite
    factors = float(factor[0]), float(smallest), float(largest)
    label = interval_label(*factors, "{:.3g}".format)
    return ComputeGap(loss, *factors, f"for {loss:.3f} nats/token MD needs {label} times the compute of AR")


def _parameters(law: PowerLaw) -> np.ndarray:
    return np.array([[law.floor, np.log(law.scale), law.exponent]])


def _log_compute(parameters: np.ndarray, loss: float) -> np.ndarray:
    """log C at which each of the laws `[n, 3]` (E, log k, p) reaches `loss`; infinite if its floor is above the loss."""
    floor, log_scale, exponent = parameters.T
    above = np.maximum(loss - floor, 0)
    with np.errstate(divide="ignore"):
        return (np.log(above) - log_scale) / exponent


def _not_reached(reached: Mapping[str, Mapping[float, float]]) -> str:
    """The bound on the gap if no loss is reached by both."""
    ar, md = (sorted(reached[reading].items()) for reading in PURE)  # (FLOPs, loss), in rising order of FLOPs
    if md[-1][1] > ar[0][1]:  # the largest budget of MD ends above the smallest of AR
        (flops, loss), (other_flops, other_loss) = md[-1], ar[0]
        worse, better, bound = "MD", "AR", f"more than {flops / other_flops:.3g}"
    else:
        (flops, loss), (other_flops, other_loss) = ar[-1], md[0]
        worse, better, bound = "AR", "MD", f"less than {other_flops / flops:.3g}"
    return (
        f"no common loss: with {budget_label(flops)} FLOPs {worse} reaches {loss:.3f} nats/token, with "
        f"{budget_label(other_flops)} {better} reaches {other_loss:.3f}, so MD needs {bound} times the compute of AR"
    )
