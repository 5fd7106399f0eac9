"""What every benchmark yields: rows, each a ratio against a peer measured alternately with it in the same process.

A benchmark is a module with `rows(short: bool) -> Iterator[Row]`, listed in `benchmarks/run.py`. With `short` it runs each
side as little as it can: only to show that it still runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Side = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measured claim. Times, bytes and shares all become a ratio, which reaches its target or does not."""

    name: str  # what is measured, and at which size
    ratio: float  # the median
    low: float  # the range over the rounds
    high: float
    target: float
    at_least: bool = True  # whether more is better; else the ratio must not exceed the target
    note: str = ""  # the peer, absolute figures

    @classmethod
    def of(cls, name: str, ratios: Sequence[float], target: float, at_least: bool = True, note: str = "") -> Row:
        """The median of paired ratios, and their range."""
        return cls(name, statistics.median(ratios), min(ratios), max(ratios), target, at_least, note)

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


@dataclass(frozen=True)
class Pairs:
    """Seconds of both sides, round by round."""

    a: list[float]
    b: list[float]

    @property
    def speedup(self) -> list[float]:
        """b / a of each round: how many times as fast a is as b."""
        return [b / a for a, b in zip(self.a, self.b, strict=True)]

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.a), statistics.median(self.b)


def seconds(action: Side) -> float:
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


def interleaved(a: Side, b: Side, rounds: int, warmup: int = 1) -> Pairs:
    """Run a and b in turn, A B A B ..., after `warmup` rounds that do not count."""
    took = [(seconds(a), seconds(b)) for _ in range(warmup + rounds)][warmup:]
    return Pairs([pair[0] for pair in took], [pair[1] for pair in took])
