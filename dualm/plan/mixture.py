"""The AR ratio alpha: which micro-batches get which objective, exactly.

alpha is kept as a fixed-point integer and summed over training, so that after n micro-batches the number
of AR ones is alpha * n rounded to the nearest integer: never off by 1, at any alpha and any world size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dualm.config import ObjectiveConfig
from dualm.objectives import OBJECTIVES, Half, main_objective
from dualm.plan.shares import ONE, Shares, rounded

Counts: TypeAlias = np.ndarray | np.int64


def published_alpha(repetitions: float) -> float:
    """`alpha: auto`: 63/64 up to 16 repetitions, then as much AR as keeps alpha * R at 16."""
    return 63 / 64 if repetitions <= 16 else min(1.0, 16 / repetitions)


def alpha_schedule(alpha: Any, repetitions: int, steps: int) -> np.ndarray:
    """alpha at every step, `[steps]`: constant, `auto`, or knots `[[progress, alpha], ...]` joined by lines."""
    if isinstance(alpha, list):
        progress, value = np.array(alpha, dtype=float).T
        return np.interp(np.arange(steps) / max(1, steps - 1), progress, value)
    return np.full(steps, published_alpha(repetitions) if alpha == "auto" else float(alpha))


def of_half(config: ObjectiveConfig, half: Half) -> Shares[str]:
    """The objectives of one half of the ratio. Raises UserError if `objective.<half>` names no objective of that half."""
    shares = {
        name: entry.share(config) for name, entry in sorted(OBJECTIVES.items()) if entry.share and entry.half == half
    }
    return Shares.of(main_objective(config, half), {name: share for name, share in shares.items() if share})


@dataclass(frozen=True)
class Mixture:
    """The objective of every micro-batch."""

    alpha: np.ndarray  # [steps] int64, fixed point
    before_step: np.ndarray  # [steps] int64: sum of alpha over all micro-batches of earlier steps
    per_step: int  # micro-batches in a global batch
    ar: Shares[str]
    md: Shares[str]

    @classmethod
    def of(cls, alpha: np.ndarray, per_step: int, config: ObjectiveConfig) -> Mixture:
        fixed = np.rint(alpha * ONE).astype(np.int64)
        before = np.concatenate([[0], np.cumsum(fixed * per_step)[:-1]])
        return cls(fixed, before, per_step, of_half(config, "ar"), of_half(config, "md"))

    def ar_before(self, micro: Counts) -> Counts:
        """How many of the first `micro` micro-batches of the run are AR, elementwise."""
        step = np.minimum(micro // self.per_step, len(self.alpha) - 1)
        return rounded(self.before_step[step] + (micro - step * self.per_step) * self.alpha[step])

    def is_ar(self, micro: Counts) -> np.ndarray | np.bool_:
        return self.ar_before(micro + 1) > self.ar_before(micro)

    def name(self, micro: int) -> str:
        """The registered objective of micro-batch number `micro`, counted over the whole run."""
        earlier = int(self.ar_before(np.int64(micro)))
        return self.ar.name(earlier) if self.is_ar(np.int64(micro)) else self.md.name(micro - earlier)

    def counts(self, micros: int) -> dict[str, int]:
        """How many of the first `micros` micro-batches of the run each objective gets."""
        ar = int(self.ar_before(np.int64(micros)))
        return self.ar.counts(ar) | self.md.counts(micros - ar)

    def sequences_read(self, first: int, last: int) -> float:
        """How many sequences the network reads of a window, on average over micro-batches `first` ... `last` - 1 of the run."""
        begin, end = (
            sum(OBJECTIVES[name].sequences * count for name, count in self.counts(micros).items())
            for micros in (first, last)
        )
        return (end - begin) / (last - first)
