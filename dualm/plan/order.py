"""Order: which window of the unique ones stands in which slot of training.

    epochs   every window once, in a new order        R of them
    slots    epoch 0 | epoch 1 | ...                  cut into micro-batches, micro-batches into steps

All of it is arithmetic on (seed, slot): no state, no rank, no world size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dualm.randomness import stream


@dataclass
class Order:
    """The window in every slot of training.

    Each epoch is a permutation drawn from (seed, epoch), with one constraint that makes exposure exact: the AR
    slots of successive epochs are dealt to the windows round robin (in one random order), so after any
    number of epochs no two windows differ by more than one in how often they were trained autoregressively.
    """

    seed: int
    windows: int
    micro_batch: int
    is_ar: Callable[[Any], Any]  # of micro-batch numbers
    ar_before: Callable[[Any], Any]
    _epochs: dict[int, np.ndarray] = field(default_factory=dict)

    def windows_at(self, slots: np.ndarray) -> np.ndarray:
        """The window index of each slot, `[n] -> [n]`."""
        epochs, offsets = np.divmod(slots, self.windows)
        return np.array([self._cached(int(epoch))[offset] for epoch, offset in zip(epochs, offsets, strict=True)])

    def ar_slots_before(self, slot: int) -> int:
        micro, rest = np.divmod(np.int64(slot), self.micro_batch)
        return int(self.ar_before(micro) * self.micro_batch + rest * self.is_ar(micro))

    def epoch(self, epoch: int) -> np.ndarray:
        """The windows of one epoch in the order of their slots, `[windows]`."""
        slots = np.arange(epoch * self.windows, (epoch + 1) * self.windows)
        ar_slot = self.is_ar(slots // self.micro_batch)
        ring = stream(self.seed, "exposure").permutation(self.windows)
        turn = self.ar_slots_before(int(slots[0])) + np.arange(np.count_nonzero(ar_slot))
        ar_window = np.zeros(self.windows, dtype=bool)
        ar_window[ring[turn % self.windows]] = True

        shuffled = stream(self.seed, "order", epoch).permutation(self.windows)
        order = np.empty(self.windows, dtype=np.int64)
        order[ar_slot] = shuffled[ar_window[shuffled]]
        order[~ar_slot] = shuffled[~ar_window[shuffled]]
        return order

    def _cached(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            for old in [known for known in self._epochs if known < epoch - 1]:
                del self._epochs[old]
            self._epochs[epoch] = self.epoch(epoch)
        return self._epochs[epoch]
