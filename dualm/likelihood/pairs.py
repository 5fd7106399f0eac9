"""What is scored: a continuation given a context, both as tokens, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dualm.errors import UserError


class Pair(NamedTuple):
    """Tokens `[c]` that are given and tokens `[n]` to score after them; a whole document's context begins with `<s>`."""

    context: np.ndarray
    continuation: np.ndarray


@dataclass(frozen=True)
class Score:
    log_likelihood: float  # nats, sum over the continuation
    standard_error: float  # of the Monte Carlo estimate; 0 where nothing is drawn
    tokens: int
    greedy: bool | None = None  # whether decoding at temperature 0 gives this continuation; None: not asked for


def windows(pair: Pair, size: int, stride: int) -> list[Pair]:
    """Cut a pair into pairs of at most `size` tokens, each of which continues the one before.

    A context too long for its continuation loses its front. A continuation too long for one window is scored in
    several: the first as long as fits, the others `stride` tokens with the `size - stride` before them as context.
    """
    if not len(pair.continuation):
        raise UserError("continuation: got an empty text, expected at least one token to score")
    assert len(pair.context), "a context holds at least <s>"
    tokens, start = np.concatenate(pair), len(pair.context)
    if len(pair.continuation) < size:
        return [Pair(pair.context[-(size - len(pair.continuation)) :], pair.continuation)]
    cut, stop = [], start + max(stride, size - start)
    while start < len(tokens):
        stop = min(stop, len(tokens))
        cut.append(Pair(tokens[max(0, stop - size) : start], tokens[start:stop]))
        start, stop = stop, stop + stride
    return cut
