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
class Portion:
    """The objectives of one half of the ratio: each of `shared` takes its share of the half, `main` the rest.

    Shares are in fixed point, in the order of names, each of what the ones before leave: every count is exact to less than 1.
    """

    main: str
    shared: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, config: ObjectiveConfig, half: Half) -> Portion:
        """Raises UserError if `objective.<half>` names no objective of that half."""
        left, shared = 1.0, []
        for name, entry in sorted(OBJECTIVES.items()):
            share = entry.share(config) if entry.share and entry.half == half else 0.0
            if share:
                shared.append((name, round(min(1.0, share / left) * ONE)))
                left = max(left - share, 1e-12)
        return cls(main_objective(config, half), tuple(shared))

    def name(self, number: int) -> str:
        """The objective of micro-batch `number` of this half, counted from 0."""
        for name, share in self.shared:
            before = rounded(number * share)
            if rounded((number + 1) * share) > before:
                return name
            number -= before
        return self.main

    def counts(self, micros: int) -> dict[str, int]:
        """How many of the first `micros` micro-batches of this half each objective gets."""
        counts = {}
        for name, share in self.shared:
            counts[name] = rounded(micros * share)
            micros -= counts[name]
        return {self.main: micros, **counts}


def rounded(fixed: Any) -> Any:
    """A fixed-point number to the nearest integer."""
    return (fixed + HALF) >> 32


@dataclass(frozen=True)
class Mixture:
    """The objective of every micro-batch."""

    alpha: np.ndarray  # [steps] int64, fixed point
    before_step: np.ndarray  # [steps] int64: sum of alpha over all micro-batches of earlier steps
    per_step: int  # micro-batches in a global batch
    ar: Portion
    md: Portion

    @classmethod
    def of(cls, alpha: np.ndarray, per_step: int, config: ObjectiveConfig) -> Mixture:
        fixed = np.rint(alpha * ONE).astype(np.int64)
        before = np.concatenate([[0], np.cumsum(fixed * per_step)[:-1]])
        return cls(fixed, before, per_step, Portion.of(config, "ar"), Portion.of(config, "md"))

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
