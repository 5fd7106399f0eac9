"""The autoregressive objective: predict the next token, under a causal or a prefix mask.

inputs   x_0 x_1 ... x_{L-1}
targets  x_1 x_2 ... x_L         where both lie in one document, from the first that is not given
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.model.attention import Kind
from dualm.objectives.example import Example, Objective
from dualm.objectives.masked_diffusion import maskable


def autoregressive(window: np.ndarray, u: float, rng: np.random.Generator, given: int = 0) -> Example:
    """Mean next-token cross-entropy over `window` `[length + 1]`, causal."""
    return next_token(window, first=given - 1)


def prefix_autoregressive(window: np.ndarray, u: float, rng: np.random.Generator, given: int = 0) -> Example:
    """The same with k tokens read bidirectionally; the tokens after them are scored.

    k is `given` if a prompt is, else 1 + floor(u * (L - 1)).
    """
    return with_prefix(window, given or 1 + int(u * (len(window) - 2)))


def with_prefix(window: np.ndarray, k: int) -> Example:
    """The first `k` inputs see each other both ways; the outputs from k-1 on predict what follows."""
    return next_token(window, first=k - 1, attention="prefix", prefix=k)


def masked_input(rate: float) -> Objective:
    """Next-token prediction from inputs of which a share `rate` is masked: regularisation that rivals mixing.

    Every target is supervised, and the mask token is one that the head can predict: only the inputs differ.
    """

    def objective(window: np.ndarray, u: float, rng: np.random.Generator, given: int = 0) -> Example:
        example = autoregressive(window, u, rng, given)
        positions, noisy = maskable(example.inputs), example.inputs.copy()
        noisy[positions[rng.random(len(positions)) < rate]] = MASK
        return replace(example, inputs=noisy)

    return objective


def next_token(window: np.ndarray, first: int, attention: Kind = "causal", prefix: int = 0) -> Example:
    """Mean cross-entropy of the next token at the outputs of `window` `[length + 1]` from `first` on."""
    inputs, targets = window[:-1], window[1:]
    # Every document begins with <s>, so a target that is no <s> lies in its input's document. Nothing follows </s>
    # but another document, or in a padded response more </s>: decoding has ended by then.
    supervised = (targets != BOS) & (targets != PAD) & (inputs != EOS) & (np.arange(len(targets)) >= first)
    weights = supervised / max(1, np.count_nonzero(supervised))
    return Example(inputs, targets, weights, attention, prefix)
