"""Repetition: how the token budget T is spent on T/R unique tokens.

token stream   x_0 x_1 x_2 ...                          the front of the prepared training split
windows        [0, L] [L, 2L] [2L, 3L] ...              U = floor(T/R) // L of them, the unique tokens
epochs         every window once                        R of them
"""

from __future__ import annotations

from dataclasses import dataclass

from dualm.config import Recipe
from dualm.errors import UserError


@dataclass(frozen=True)
class Budget:
    """How the token budget T is spent.

    `windows` are the unique ones (U), each seen R times. Their unique tokens lie in the front of the
    stream, so the subset for 2R is inside the one for R. If only `train.steps` is given, T is steps * batch *
    context, and up to R-1 windows may begin pass R+1, because U is rounded down.
    """

    windows: int
    steps: int
    tokens: int  # T
    repetitions: int  # R
    context: int  # L
    batch: int  # sequences per step

    @classmethod
    def of(cls, recipe: Recipe) -> Budget:
        data, train, context = recipe.data, recipe.train, recipe.model.context
        tokens = data.tokens or (train.steps or 0) * train.global_batch * context
        windows = tokens // data.repetitions // context
        steps = train.steps or windows * data.repetitions // train.global_batch
        if windows < 1:
            raise UserError(
                f"data.repetitions: got {data.repetitions}, expected at most {tokens // context}: "
                f"{tokens} tokens in windows of {context} leave nothing to repeat so often"
            )
        if steps < 1 or steps * train.global_batch * context > tokens:
            raise UserError(
                f"data.tokens: got {tokens}, expected at least train.steps * train.global_batch * model.context = "
                f"{max(1, steps) * train.global_batch * context}"
            )
        return cls(windows, steps, tokens, data.repetitions, context, train.global_batch)

    @property
    def unique_tokens(self) -> int:
        return self.windows * self.context

    @property
    def sequences(self) -> int:
        return self.steps * self.batch

    def check_fits(self, windows: int) -> None:
        """Refuse a budget that asks for more unique windows than the corpus has."""
        if self.windows > windows:
            enough = self.tokens // ((windows + 1) * self.context) + 1
            raise UserError(
                f"data.repetitions: got {self.repetitions}, expected at least {enough}: T/R = {self.unique_tokens} "
                f"unique tokens ({self.windows} windows) are asked for, the corpus has {windows * self.context} "
                f"({windows} windows)"
            )
