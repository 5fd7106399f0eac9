"""Shares of a sequence, exact at every length.

A share is kept as a fixed-point integer, so that of the first n the named one gets share * n rounded to the nearest integer.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

ONE = 1 << 32  # 1.0 in fixed point; sums stay in int64 for 2^31 numbers
HALF = ONE >> 1

Name = TypeVar("Name", bound=Hashable)


def rounded(fixed: Any) -> Any:
    """A fixed-point number to the nearest integer."""
    return (fixed + HALF) >> 32


@dataclass(frozen=True)
class Shares(Generic[Name]):
    """Who gets which number: each of `shared` takes its share of what the ones before leave, `main` the rest.

    Every count is exact to less than 1.
    """

    main: Name
    shared: tuple[tuple[Name, int], ...] = ()

    @classmethod
    def of(cls, main: Name, shares: Mapping[Name, float]) -> Shares[Name]:
        """`shares` are of the whole, in the order in which they are taken; none is 0."""
        left, shared = 1.0, []
        for name, share in shares.items():
            shared.append((name, round(min(1.0, share / left) * ONE)))
            left = max(left - share, 1e-12)
        return cls(main, tuple(shared))

    def name(self, number: int) -> Name:
        """Who gets `number`, counted from 0."""
        for name, share in self.shared:
            before = rounded(number * share)
            if rounded((number + 1) * share) > before:
                return name
            number -= before
        return self.main

    def counts(self, numbers: int) -> dict[Name, int]:
        """How many of the first `numbers` each gets."""
        counts = {}
        for name, share in self.shared:
            counts[name] = rounded(numbers * share)
            numbers -= counts[name]
        return {self.main: numbers, **counts}
