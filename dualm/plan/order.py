"""Order: what stands in which slot of training.

    slots      one for each sequence, cut into micro-batches, those into steps
    halves     the AR slots and the MD slots, counted apart: those of a micro-batch have one objective
    sources    each gets its share of the slots of either half
    epochs     of a source: every unique window of it once

All of it is arithmetic on the slot: no state, no rank, no world size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dualm.objectives import Half
from dualm.plan.mixture import Shares


class Counts(NamedTuple):
    """Windows of a source, by half."""

    ar: int
    md: int


class Epoch(NamedTuple):
    """One pass over a source: its number, and what either half has had of the source before and after it."""

    number: int
    begin: Counts
    end: Counts


class Place(NamedTuple):
    """What a slot gets: the `number`-th of the windows that one half gets of an epoch of a source."""

    source: int
    epoch: Epoch
    half: Half
    number: int


@dataclass
class Order:
    windows: Sequence[int]  # unique ones of each source
    shares: Shares[int]  # of the slots of each half, among the sources
    micro_batch: int
    is_ar: Callable[[Any], Any]  # of micro-batch numbers
    ar_before: Callable[[Any], Any]
    _begins: dict[tuple[int, int], Counts] = field(default_factory=dict)

    def place(self, slot: int) -> Place:
        half, number = self._in_half(slot)
        source = self.shares.name(number)
        before = self._before(source, slot)
        epoch = self.epoch(source, sum(before) // self.windows[source])
        return Place(source, epoch, half, getattr(before, half) - getattr(epoch.begin, half))

    def epoch(self, source: int, number: int) -> Epoch:
        return Epoch(number, self._begin(source, number), self._begin(source, number + 1))

    def _begin(self, source: int, epoch: int) -> Counts:
        """What either half has had of a source when an epoch begins."""
        if (source, epoch) not in self._begins:
            wanted = epoch * self.windows[source]
            low, high = 0, 1
            while sum(self._before(source, high)) < wanted:
                low, high = high, 2 * high
            while low < high:  # the first slot with all of the epochs before
                middle = (low + high) // 2
                low, high = (low, middle) if sum(self._before(source, middle)) >= wanted else (middle + 1, high)
            self._begins[source, epoch] = self._before(source, low)
        return self._begins[source, epoch]

    def _in_half(self, slot: int) -> tuple[Half, int]:
        """The half that a slot belongs to, and its number there."""
        ar = self._ar_slots(slot)
        return ("ar", ar) if self.is_ar(np.int64(slot // self.micro_batch)) else ("md", slot - ar)

    def _before(self, source: int, slot: int) -> Counts:
        """What either half has had of a source before a slot."""
        ar = self._ar_slots(slot)
        return Counts(self.shares.counts(ar)[source], self.shares.counts(slot - ar)[source])

    def _ar_slots(self, slot: int) -> int:
        micro, rest = divmod(slot, self.micro_batch)
        return int(self.ar_before(np.int64(micro)) * self.micro_batch + rest * self.is_ar(np.int64(micro)))
