"""Repetition: how the token budget T is spent on T/R unique tokens.

corpus         units in a seeded random order           dualm.data.units
unique tokens  the first U * L of them                  U = floor(T/R) // L windows
epochs         every unique token once                  R of them

Several sources share T by their weights; each has unique tokens and repetitions of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dualm.config import Recipe
from dualm.data.weighted import WeightedSource, weighted_sources
from dualm.errors import UserError


@dataclass(frozen=True)
class SourceBudget:
    """What one source gets of the budget."""

    name: str | None  # None: it is the only one
    tokens: int  # its share of T
    repetitions: int
    windows: int  # unique ones

    @property
    def sequences(self) -> int:
        return self.windows * self.repetitions

    def mistake(self, expected: str) -> UserError:
        key = "data.repetitions" if self.name is None else f"data.train, source '{self.name}': repetitions"
        return UserError(f"{key}: got {self.repetitions}, expected {expected}")


@dataclass(frozen=True)
class Budget:
    """How the token budget T is spent.

    `windows` are the unique ones (U), each seen R times. If only `train.steps` is given, T is steps * batch * context, and up to
    R-1 windows may begin pass R+1, because U is rounded down.
    """

    sources: tuple[SourceBudget, ...]
    steps: int
    tokens: int  # T
    repetitions: int  # R
    context: int  # L
    batch: int  # sequences per step

    @classmethod
    def of(cls, recipe: Recipe) -> Budget:
        data, train, context = recipe.data, recipe.train, recipe.model.context
        tokens = data.tokens or (train.steps or 0) * train.global_batch * context
        sources = tuple(_spent(source, tokens, context) for source in weighted_sources(data))
        steps = train.steps or sum(source.sequences for source in sources) // train.global_batch
        if steps < 1 or steps * train.global_batch * context > tokens:
            raise UserError(
                f"data.tokens: got {tokens}, expected at least train.steps * train.global_batch * model.context = "
                f"{max(1, steps) * train.global_batch * context}"
            )
        return cls(sources, steps, tokens, data.repetitions, context, train.global_batch)

    @property
    def windows(self) -> int:
        return sum(source.windows for source in self.sources)

    @property
    def unique_tokens(self) -> int:
        return self.windows * self.context

    @property
    def sequences(self) -> int:
        return self.steps * self.batch

    def shares(self) -> list[float]:
        """The share of the sequences that each source gets."""
        planned = [source.sequences for source in self.sources]
        return [float(Fraction(one, sum(planned))) for one in planned]

    def check_fits(self, available: Sequence[int]) -> None:
        """Refuse a budget that asks for more unique windows than a source has. `available` are those of each."""
        for source, windows in zip(self.sources, available, strict=True):
            if source.windows > windows:
                enough = source.tokens // ((windows + 1) * self.context) + 1
                raise source.mistake(
                    f"at least {enough}: T/R = {source.windows * self.context} unique tokens ({source.windows} windows) "
                    f"are asked for, the corpus has {windows * self.context} ({windows} windows)"
                )


def _spent(source: WeightedSource, tokens: int, context: int) -> SourceBudget:
    share = int(tokens * source.share)
    spent = SourceBudget(source.name, share, source.repetitions, share // source.repetitions // context)
    if not spent.windows:
        raise spent.mistake(
            f"at most {share // context}: {share} tokens in windows of {context} leave nothing to repeat so often"
        )
    return spent
