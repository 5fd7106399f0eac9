"""The AR ratio alpha: which micro-batches get which objective, exactly.

alpha is kept as a fixed-point integer and summed over training, so that after n micro-batches the number
of AR ones is alpha * n rounded to the nearest integer: never off by 1, at any alpha and any world size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Counts: TypeAlias = np.ndarray | np.int64

ONE = 1 << 32  # 1.0 in fixed point; sums stay in int64 for 2^31 micro-batches
HALF = ONE >> 1


def published_alpha(repetitions: float) -> float:
    """`alpha: auto`: 63/64 up to 16 repetitions, then as much AR as keeps alpha * R at 16."""
    return 63 / 64 if repetitions <= 16 else min(1.0, 16 / repetitions)


def alpha_schedule(alpha: Any, repetitions: int, steps: int) -> np.ndarray:
    """alpha at every step, `[steps]`: constant, `auto`, or knots `[[progress, alpha], ...]` joined by lines."""
    if isinstance(alpha, list):
        progress, value = np.array(alpha, dtype=float).T
        return np.interp(np.arange(steps) / max(1, steps - 1), progress, value)
    return np.full(steps, published_alpha(repetitions) if alpha == "auto" else float(alpha))


@dataclass(frozen=True)
class Mixture:
    """The objective of every micro-batch: `ar`, `prefix` (an AR micro-batch under a prefix mask) or `md`."""

    alpha: np.ndarray  # [steps] int64, fixed point
    before_step: np.ndarray  # [steps] int64: sum of alpha over all micro-batches of earlier steps
    per_step: int  # micro-batches in a global batch
    prefix_fraction: int  # fixed point

    @classmethod
    def of(cls, alpha: np.ndarray, per_step: int, prefix_fraction: float = 0.0) -> Mixture:
        fixed = np.rint(alpha * ONE).astype(np.int64)
        before = np.concatenate([[0], np.cumsum(fixed * per_step)[:-1]])
        return cls(fixed, before, per_step, round(prefix_fraction * ONE))

    def ar_before(self, micro: Counts) -> Counts:
        """How many of the first `micro` micro-batches of the run are AR, elementwise."""
        step = np.minimum(micro // self.per_step, len(self.alpha) - 1)
        exact = self.before_step[step] + (micro - step * self.per_step) * self.alpha[step]
        return (exact + HALF) >> 32

    def is_ar(self, micro: Counts) -> np.ndarray | np.bool_:
        return self.ar_before(micro + 1) > self.ar_before(micro)

    def name(self, micro: int) -> str:
        """The registered objective of micro-batch number `micro`, counted over the whole run."""
        if not self.is_ar(np.int64(micro)):
            return "md"
        earlier = int(self.ar_before(np.int64(micro)))
        return "prefix" if self.prefixes_before(earlier + 1) > self.prefixes_before(earlier) else "ar"

    def prefixes_before(self, ar_micro: int) -> int:
        """How many of the first `ar_micro` AR micro-batches read a prefix both ways."""
        return (ar_micro * self.prefix_fraction + HALF) >> 32
