"""Autoregressive decoding, one token at a time."""

from __future__ import annotations

import numpy as np
import torch

from dualm.data.tokenizer import EOS
from dualm.generation.sampling import sample
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer


@torch.no_grad()
def decode(
    model: Transformer, prompt: np.ndarray, length: int, rng: np.random.Generator, temperature: float = 1.0
) -> np.ndarray:
    """Extend `prompt` `[k]` to `length` tokens: `[length]`.

    The whole buffer is run at every step and the tokens not yet written are invisible to those that are, so
    the number of forward passes is the same on every rank of a sharded model. What follows `</s>` is up to
    the caller to cut.
    """
    device = next(model.parameters()).device
    tokens = np.full(length, EOS)
    tokens[: len(prompt)] = prompt
    for place in range(len(prompt), length):
        inputs = torch.from_numpy(tokens)[None].to(device)
        row = torch.tensor([place - 1], device=device)
        tokens[place] = sample(model.logits(inputs, AttentionMask("causal"), row), rng, temperature)[0]
    return tokens
