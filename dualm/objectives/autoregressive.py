"""The autoregressive objective: predict the next token, under a causal or a prefix mask.

inputs   x_0 x_1 ... x_{L-1}
targets  x_1 x_2 ... x_L         where both lie in one document
"""

from __future__ import annotations

import numpy as np

from dualm.data.tokenizer import BOS, PAD
from dualm.model.attention import Kind
from dualm.objectives.example import Example


def autoregressive(window: np.ndarray, u: float, rng: np.random.Generator) -> Example:
    """Mean next-token cross-entropy over `window` `[length + 1]`, causal."""
    return _next_token(window, first=0, attention="causal", prefix=0)


def prefix_autoregressive(window: np.ndarray, u: float, rng: np.random.Generator) -> Example:
    """The same with k = 1 + floor(u * (L - 1)) tokens read bidirectionally; the tokens after them are scored."""
    return with_prefix(window, 1 + int(u * (len(window) - 2)))


def with_prefix(window: np.ndarray, k: int) -> Example:
    """The first `k` inputs see each other both ways; the outputs from k-1 on predict what follows."""
    return _next_token(window, first=k - 1, attention="prefix", prefix=k)


def _next_token(window: np.ndarray, first: int, attention: Kind, prefix: int) -> Example:
    inputs, targets = window[:-1], window[1:]
    # Every document begins with <s>, so a target that is no <s> lies in its input's document.
    supervised = (targets != BOS) & (targets != PAD) & (np.arange(len(targets)) >= first)
    weights = supervised / max(1, np.count_nonzero(supervised))
    return Example(inputs, targets, weights, attention, prefix)
