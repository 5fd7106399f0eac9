"""Passes: what windows a source gives in each of its epochs, so that exposure is exact.

Same    one set of windows, cut once. Every epoch has them in a new order, and the AR slots of successive epochs are dealt to
        them round robin, on one random ring: AR exposures of any two windows differ by one at most.
Recut   windows cut anew in every epoch. The AR part of an epoch is the next arc of the ring of units, which begins where the last
        one ended; MD gets the rest of the ring. Each part is shuffled, turned by a random number of tokens and cut. So
        every token is seen once an epoch, and AR exposures of any two tokens differ by one at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from dualm.config import Recipe
from dualm.data.shards import Shards, TokenStream
from dualm.data.tape import Ring, Shuffled
from dualm.data.units import UNITS, Cut, documents_in
from dualm.data.weighted import weighted_sources
from dualm.data.windows import Pairs, Rows, Window, Windows, open_windows, random_windows
from dualm.objectives import Half
from dualm.plan.budget import Budget
from dualm.plan.order import Epoch
from dualm.randomness import stream


class Passes(Protocol):
    """The unique windows of a source, and those of any pass over them."""

    @property
    def windows(self) -> Windows: ...

    def window(self, epoch: Epoch, half: Half, number: int) -> Window:
        """Window `number` of those that `half` gets of an epoch."""
        ...


@dataclass
class Same:
    seed: int
    windows: Windows
    source: int = 0
    _epochs: dict[int, dict[Half, np.ndarray]] = field(default_factory=dict)

    def window(self, epoch: Epoch, half: Half, number: int) -> Window:
        if epoch.number not in self._epochs:
            self._epochs = {old: kept for old, kept in self._epochs.items() if old == epoch.number - 1}
            self._epochs[epoch.number] = self.epoch(epoch)
        return self.windows[int(self._epochs[epoch.number][half][number])]

    def epoch(self, epoch: Epoch) -> dict[Half, np.ndarray]:
        """The windows of either half in their order."""
        count = sum(epoch.end) - sum(epoch.begin)
        ring = stream(self.seed, "exposure", 0, self.source).permutation(count)
        is_ar = np.zeros(count, dtype=bool)
        is_ar[ring[np.arange(epoch.begin.ar, epoch.end.ar) % count]] = True
        shuffled = stream(self.seed, "order", epoch.number, self.source).permutation(count)
        return {"ar": shuffled[is_ar[shuffled]], "md": shuffled[~is_ar[shuffled]]}


class RingWindows:
    """The windows of a ring, cut once."""

    def __init__(self, ring: Ring, context: int) -> None:
        self.ring, self.context = ring, context

    @property
    def remark(self) -> str | None:
        return None

    def __len__(self) -> int:
        return len(self.ring) // self.context

    def __getitem__(self, index: int) -> Window:
        return self.ring.window(index * self.context, self.context)


@dataclass
class Recut:
    seed: int
    windows: RingWindows
    source: int = 0
    _parts: dict[tuple[int, Half], Shuffled] = field(default_factory=dict)

    def window(self, epoch: Epoch, half: Half, number: int) -> Window:
        if (epoch.number, half) not in self._parts:
            self._parts = {key: kept for key, kept in self._parts.items() if key[0] >= epoch.number - 1}
            self._parts[epoch.number, half] = self.part(epoch, half)
        part, context = self._parts[epoch.number, half], self.windows.context
        return part.window(part.turn + number * context, context)

    def part(self, epoch: Epoch, half: Half) -> Shuffled:
        """The tokens that a half gets of an epoch: AR's arc of the ring ends where the next epoch's begins."""
        ring, context = self.windows.ring, self.windows.context
        start, count = epoch.begin.ar, epoch.end.ar - epoch.begin.ar
        if half == "md":
            start, count = epoch.end.ar, epoch.end.md - epoch.begin.md
        rng = stream(self.seed, f"recut {half}", epoch.number, self.source)
        return Shuffled(ring, start * context % len(ring), count * context, rng)


# ---------------------------------------------------------------- the sources of a recipe


def cut_of(recipe: Recipe, tokens: TokenStream) -> Cut:
    """The units of packed tokens, as the recipe wants them."""
    context = recipe.model.context
    return UNITS.choose(recipe.data.unit)(tokens, recipe.data.chunk or 4 * context, context)


def available(recipe: Recipe, shards: Shards) -> list[int]:
    """How many unique windows each source has."""
    streams = [shards.stream("train", source.name) for source in weighted_sources(recipe.data)]
    if recipe.data.format == "packed":
        return [len(tokens) // recipe.model.context for tokens in streams]
    return [len(open_windows(recipe.data, tokens, recipe.model.context)) for tokens in streams]


def open_passes(recipe: Recipe, shards: Shards) -> list[Passes]:
    """The passes over each source.

    Raises:
        UserError: a source has fewer unique windows than the budget asks for.
    """
    budget = Budget.of(recipe)
    budget.check_fits(available(recipe, shards))
    return [
        passes(recipe, shards.stream("train", source.name), number, source.windows)
        for number, source in enumerate(budget.sources)
    ]


def passes(recipe: Recipe, tokens: TokenStream, source: int, windows: int) -> Passes:
    """The passes over the random subset of `windows` windows of one source."""
    seed, context = recipe.run.seed, recipe.model.context
    if recipe.data.format == "packed":
        cut = RingWindows(Ring(cut_of(recipe, tokens), tokens, seed, windows * context), context)
        return Recut(seed, cut, source) if recipe.data.recut else Same(seed, cut, source)
    whole = open_windows(recipe.data, tokens, context)
    assert isinstance(whole, Rows | Pairs)
    return Same(seed, random_windows(whole, seed, windows), source)


# ---------------------------------------------------------------- how much of them a run uses


class Use(NamedTuple):
    """How much of a source a run uses. It stands in the run's record."""

    source: str | None
    unit: str
    tokens: int
    of_tokens: int
    documents: int
    of_documents: int

    def __str__(self) -> str:
        name = "" if self.source is None else f"{self.source}: "
        unit = f" in {self.unit}" if self.unit != "documents" else ""
        return f"{name}{self.tokens:,} of {self.of_tokens:,} tokens{unit}, {self.documents:,} of {self.of_documents:,} documents"


def uses(recipe: Recipe, shards: Shards, sources: Sequence[Passes]) -> list[Use]:
    """What a run uses of each of its sources."""
    return [
        _use(recipe, shards, name, source)
        for name, source in zip((one.name for one in weighted_sources(recipe.data)), sources, strict=True)
    ]


def _use(recipe: Recipe, shards: Shards, name: str | None, source: Passes) -> Use:
    counts = shards.counts("train", name)
    if not isinstance(source.windows, RingWindows):
        each = 2 if recipe.data.format == "pairs" else 1
        windows = len(source.windows)
        used = windows * recipe.model.context
        return Use(name, recipe.data.format, used, counts["tokens"], windows * each, counts["documents"])
    ring, tokens = source.windows.ring, shards.stream("train", name)
    documents = documents_in(cut_of(recipe, tokens), recipe.run.seed, ring.units[-1:], tokens)
    return Use(name, recipe.data.unit, len(ring), counts["tokens"], documents, counts["documents"])
