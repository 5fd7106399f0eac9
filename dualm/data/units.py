"""Units: what the unique data of a run are a random subset of.

    chunks      documents, long ones in equal pieces of at most data.chunk tokens
    documents   whole ones
    windows     model.context tokens of the packed stream, as the order of the files has it

Units stand in the order of a key, a hash of (seed, digest of the document, number of the piece in it). The subset for T/R tokens is the
beginning of that order. So it is a random subset of the whole corpus, the one for 2R lies inside the one for R, and neither the
names nor the order of the files matter, nor the world size. Copies of a document have one key: all are in the subset, or none is.
(`windows` have nothing of their own to tell them by: their key is a hash of their number, so there the order of the files matters.)

A unit is represented by where it starts in the stream, 8 bytes. The keys are counter-based, so they are computed again where
they are needed and never kept: `lowest` counts the units by the leading bits of their keys, deals their starts into buckets and sorts
each bucket. That is two passes over the units, 8 bytes for each unit of the subset, and a block of working memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from dualm.data.shards import Documents, TokenStream
from dualm.registry import Registry

DOCUMENTS_AT_ONCE = 2**16
BUCKET = 2**14  # units that are sorted at once, about
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Units(NamedTuple):
    """Some units of a stream, `[units]` each."""

    starts: np.ndarray
    stops: np.ndarray
    digests: np.ndarray  # of the documents
    numbers: np.ndarray  # of the pieces in their documents

    def keys(self, seed: int) -> np.ndarray:
        return keys(self.digests, self.numbers, seed)


def keys(digests: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
    """What units are ordered by, uniform on 0 … 2^64 - 1 `[units]`."""
    word = mixed(np.array([seed], np.uint64) + GOLDEN)
    return mixed(mixed(digests ^ word) + numbers.astype(np.uint64) * GOLDEN)


def mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014, figure 16): a bijection that looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Cut(Protocol):
    """A way to cut a stream into units."""

    def blocks(self) -> Iterator[Units]:
        """All units, some at a time."""
        ...

    def at(self, starts: np.ndarray) -> Units:
        """The units that start at `starts` `[n]`."""
        ...


class Pieces:
    """Documents, each in as few equal pieces of at most `size` tokens as it takes."""

    def __init__(self, stream: TokenStream, size: int) -> None:
        self.stream, self.size = stream, size

    def blocks(self) -> Iterator[Units]:
        for documents in self.stream.document_blocks(DOCUMENTS_AT_ONCE):
            count = self._count(documents)
            whole = Documents(*(np.repeat(column, count) for column in documents))
            first = np.repeat(np.cumsum(count) - count, count)
            yield self._units(whole, np.arange(len(first)) - first)

    def at(self, starts: np.ndarray) -> Units:
        documents = self.stream.documents_at(starts)
        length, before = documents.stops - documents.starts, starts - documents.starts
        return self._units(documents, -(-before * self._count(documents) // length))

    def _count(self, documents: Documents) -> np.ndarray:
        return -(-(documents.stops - documents.starts) // self.size)

    def _units(self, documents: Documents, numbers: np.ndarray) -> Units:
        length, count = documents.stops - documents.starts, self._count(documents)
        starts, stops = (documents.starts + length * number // count for number in (numbers, numbers + 1))
        return Units(starts, stops, documents.digests, numbers)


class PackedWindows:
    """`size` tokens of the stream each, whatever documents they are of. A shorter rest belongs to none."""

    def __init__(self, stream: TokenStream, size: int) -> None:
        self.stream, self.size = stream, size

    def blocks(self) -> Iterator[Units]:
        windows = len(self.stream) // self.size
        for first in range(0, windows, DOCUMENTS_AT_ONCE):
            yield self.at(np.arange(first, min(windows, first + DOCUMENTS_AT_ONCE)) * self.size)

    def at(self, starts: np.ndarray) -> Units:
        return Units(starts, starts + self.size, np.zeros(len(starts), np.uint64), starts // self.size)


# By `data.unit`: (stream, data.chunk, model.context) -> units.
UNITS: Registry[Callable[[TokenStream, int, int], Cut]] = Registry(
    "data.unit",
    {
        "chunks": lambda stream, chunk, context: Pieces(stream, chunk),
        "documents": lambda stream, chunk, context: Pieces(stream, len(stream)),
        "windows": lambda stream, chunk, context: PackedWindows(stream, context),
    },
)


def lowest(cut: Cut, seed: int, tokens: int) -> np.ndarray:
    """Where the units with the lowest keys start, in the order of their keys `[units]`: as few as hold `tokens` tokens.

    There must be so many tokens in all.
    """
    shift, counts, sizes = _histogram(cut, seed)
    needed = int(np.searchsorted(np.cumsum(sizes), tokens)) + 1  # buckets
    ends = np.cumsum(counts[:needed])
    starts, free = np.empty(ends[-1], np.int64), ends - counts[:needed]
    for units in cut.blocks():
        buckets = (units.keys(seed) >> shift).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        order = order[: np.searchsorted(buckets[order], needed)]
        dealt = np.bincount(buckets[order], minlength=needed)
        within = np.arange(len(order)) - np.repeat(np.cumsum(dealt) - dealt, dealt)
        starts[free[buckets[order]] + within] = units.starts[order]
        free += dealt
    for first, end in zip(ends - counts[:needed], ends, strict=True):
        starts[first:end] = starts[first:end][np.argsort(cut.at(starts[first:end]).keys(seed), kind="stable")]
    last = starts[ends[-1] - counts[needed - 1] :]
    before = int(sizes[: needed - 1].sum())
    kept = int(np.searchsorted(np.cumsum(_lengths(cut.at(last))), tokens - before)) + 1
    return starts[: len(starts) - len(last) + kept]


def documents_in(cut: Cut, seed: int, last: np.ndarray, stream: TokenStream) -> int:
    """How many documents the units have tokens of whose keys are at most that of the unit that starts at `last` `[1]`."""
    threshold, count, reached = cut.at(last).keys(seed), 0, -1
    for units in cut.blocks():  # in the order of the stream, so documents that two units share are neighbours
        used = units.keys(seed) <= threshold
        first, end = (stream.document_numbers(places[used]) for places in (units.starts, units.stops - 1))
        if len(first):
            before = np.maximum(reached, np.concatenate([[-1], np.maximum.accumulate(end)[:-1]]))
            count += int(np.maximum(0, end - np.maximum(first, before + 1) + 1).sum())
            reached = max(reached, int(end[-1]))
    return count


def _histogram(cut: Cut, seed: int) -> tuple[np.uint64, np.ndarray, np.ndarray]:
    """How far to shift a key to get its bucket, and the units and tokens of each bucket."""
    total = sum(len(units.starts) for units in cut.blocks())
    bits = max(1, (total // BUCKET).bit_length())
    shift, counts, sizes = np.uint64(64 - bits), np.zeros(2**bits, np.int64), np.zeros(2**bits, np.int64)
    for units in cut.blocks():
        buckets = (units.keys(seed) >> shift).astype(np.int64)
        counts += np.bincount(buckets, minlength=len(counts))
        sizes += np.bincount(buckets, weights=_lengths(units), minlength=len(sizes)).astype(
            np.int64
        )  # exact below 2^53
    return shift, counts, sizes


def _lengths(units: Units) -> np.ndarray:
    return units.stops - units.starts
