"""Tapes: pieces of a stream of tokens laid end to end, of which windows are cut.

    ring      the units of the subset in their fixed random order; the last one is cut, so that the length is exact
    shuffled  an arc of the ring, its pieces in a new order and turned by a random number of tokens

Both are cyclic: after the last token comes the first. The pieces are made in blocks when they are read, so a tape of 1e9 units takes
the memory of the units' starts, 8 bytes each, and of some blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from dualm.data.shards import TokenStream
from dualm.data.units import Cut, lowest
from dualm.data.windows import Window

BLOCK = 2**14  # units that the ring looks up at once
SHUFFLED = 2**20  # units that are shuffled together; an arc of more is shuffled in parts, and the parts too
KEPT = 8  # blocks in memory


class Pieces(NamedTuple):
    """Pieces of the stream `[pieces]`, and where each begins on the tape `[pieces + 1]`."""

    starts: np.ndarray
    stops: np.ndarray
    borders: np.ndarray

    @classmethod
    def of(cls, starts: np.ndarray, stops: np.ndarray) -> Pieces:
        return cls(starts, stops, np.concatenate([[0], np.cumsum(stops - starts)]))

    def cut(self, start: int, stop: int) -> Pieces:
        """What lies between two places of the tape."""
        first = int(np.searchsorted(self.borders, start, side="right")) - 1
        end = int(np.searchsorted(self.borders, stop, side="left"))
        starts, stops = self.starts[first:end].copy(), self.stops[first:end].copy()
        starts[0] += start - self.borders[first]
        stops[-1] -= self.borders[end] - stop
        return Pieces.of(starts, stops)


class Tape(ABC):
    """A cyclic tape. `borders` `[blocks + 1]` says where its blocks begin and the last one ends."""

    def __init__(self, stream: TokenStream, borders: np.ndarray) -> None:
        self.stream, self.borders = stream, borders
        self._kept: OrderedDict[int, Pieces] = OrderedDict()

    def __len__(self) -> int:
        return int(self.borders[-1])

    @abstractmethod
    def block(self, number: int) -> Pieces:
        """The pieces of one block, made anew."""

    def cut(self, start: int, stop: int) -> Pieces:
        """The pieces between two places, which may lie beyond the end."""
        found = []
        while start < stop:
            place = start % len(self)
            number = int(np.searchsorted(self.borders, place, side="right")) - 1
            first, end = self.borders[number : number + 2].tolist()
            until = min(end, place + stop - start)
            found.append(self._cached(number).cut(place - first, until - first))
            start += until - place
        return Pieces.of(*(np.concatenate([getattr(one, name) for one in found]) for name in ("starts", "stops")))

    def window(self, start: int, context: int) -> Window:
        """The `context` tokens from a place on, and the one after them, which is a target only."""
        pieces = self.cut(start, start + context + 1)
        tokens = self.stream.gather(pieces.starts, pieces.stops)
        return Window(tokens, pieces=np.repeat(np.arange(len(pieces.starts)), pieces.stops - pieces.starts))

    def _cached(self, number: int) -> Pieces:
        if number not in self._kept:
            self._kept[number] = self.block(number)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[number]


class Ring(Tape):
    """The seeded random subset of a stream that holds `tokens` tokens."""

    def __init__(self, cut: Cut, stream: TokenStream, seed: int, tokens: int) -> None:
        self.units, self._cut = lowest(cut, seed, tokens), cut
        firsts = range(0, len(self.units), BLOCK)
        sizes = [int(np.sum(np.subtract(*self._span(first)))) for first in firsts]
        borders = np.concatenate([[0], np.cumsum(sizes)])
        borders[-1] = tokens
        super().__init__(stream, borders)

    def block(self, number: int) -> Pieces:
        stops, starts = self._span(number * BLOCK)
        whole = Pieces.of(starts, stops)
        return whole.cut(0, int(self.borders[number + 1] - self.borders[number]))

    def _span(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        units = self._cut.at(self.units[first : first + BLOCK])
        return units.stops, units.starts


class Shuffled(Tape):
    """`tokens` of the ring from `start` on, their pieces in the order of `rng`."""

    def __init__(self, ring: Ring, start: int, tokens: int, rng: np.random.Generator) -> None:
        parts = max(1, round(tokens / len(ring) * len(ring.units) / SHUFFLED))
        edges = np.linspace(start, start + tokens, parts + 1).astype(np.int64)
        order = rng.permutation(parts)
        super().__init__(ring.stream, np.concatenate([[0], np.cumsum(np.diff(edges)[order])]))
        self._ring, self._edges, self._order = ring, edges, order
        self._seeds = rng.integers(2**63, size=parts)
        self.turn = int(rng.integers(tokens))

    def block(self, number: int) -> Pieces:
        part = int(self._order[number])
        pieces = self._ring.cut(int(self._edges[part]), int(self._edges[part + 1]))
        order = np.random.Generator(np.random.Philox(self._seeds[part])).permutation(len(pieces.starts))
        return Pieces.of(pieces.starts[order], pieces.stops[order])
