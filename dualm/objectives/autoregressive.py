"""The autoregressive objective: predict the next token, under a causal or a prefix mask.

inputs   x_0 x_1 ... x_{L-1}
targets  x_1 x_2 ... x_L         where both lie in one document, from the first that is not given
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dualm.data.tokenizer import EOS, MASK, PAD
from dualm.data.windows import Window
from dualm.model.attention import Kind
from dualm.objectives.example import Example, Objective
from dualm.objectives.masked_diffusion import maskable

MIR_SPARED = 8  # tokens at the front of a window that MIR never masks


def autoregressive(window: Window, u: float, rng: np.random.Generator) -> Example:
    """Mean next-token cross-entropy over the window, causal."""
    return next_token(window, first=window.given - 1)


def prefix_autoregressive(window: Window, u: float, rng: np.random.Generator) -> Example:
    """The same with k tokens read bidirectionally; the tokens after them are scored.

    k is the length of the prompt if there is one, else 1 + floor(u * (L - 1)).
    """
    return with_prefix(window, window.given or 1 + int(u * (len(window.inputs) - 1)))


def with_prefix(window: Window, k: int) -> Example:
    """The first `k` inputs see each other both ways; the outputs from k-1 on predict what follows."""
    return next_token(window, first=k - 1, attention="prefix", prefix=k)


def masked_input(rate: float) -> Objective:
    """Next-token prediction from inputs of which a share `rate` is masked: regularisation that rivals mixing.

    Every target is supervised, and the mask token is one that the head can predict: only the inputs differ.
    """

    def objective(window: Window, u: float, rng: np.random.Generator) -> Example:
        return with_masked_inputs(window, rate, rng)

    return objective


def masked_input_regularization(weight: float, smallest: float, largest: float) -> Objective:
    """The clean loss plus `weight` times that of `masked_input` on the same window, its rate uniform in [smallest, largest].

    Source: Xu et al. 2026 (MIR, arXiv 2606.06888) and its code yixinw-lab/dc_pretrain (`--stage1-full-seq`,
    `--stage1-mask-sampling uniform_ratio`), which never masks the first eight tokens.
    """

    def objective(window: Window, u: float, rng: np.random.Generator) -> Example:
        noisy = with_masked_inputs(window, smallest + (largest - smallest) * u, rng, spared=MIR_SPARED)
        return replace(autoregressive(window, u, rng), beside=noisy.scaled(weight))

    return objective


def with_masked_inputs(window: Window, rate: float, rng: np.random.Generator, spared: int = 0) -> Example:
    """Next-token prediction with a share `rate` of the inputs masked, but for `<s>`, `<pad>` and the first `spared`."""
    positions, noisy = maskable(window._replace(given=0)), window.inputs.copy()
    masked = positions[rng.random(len(positions)) < rate]
    noisy[masked[masked >= spared]] = MASK
    return replace(next_token(window, first=window.given - 1), inputs=noisy)


def next_token(window: Window, first: int, attention: Kind = "causal", prefix: int = 0) -> Example:
    """Mean cross-entropy of the next token at the outputs of the window from `first` on."""
    inputs, targets, documents = window.inputs, window.tokens[1:], window.documents
    # Nothing follows </s> but another document, or in a padded response more </s>: decoding has ended by then.
    within = (documents[1:] == documents[:-1]) & (targets != PAD)
    supervised = within & (inputs != EOS) & (np.arange(len(targets)) >= first)
    weights = supervised / max(1, np.count_nonzero(supervised))
    return Example(inputs, targets, weights, attention, prefix, documents[:-1])
