"""Autoregressive decoding from a key-value cache, the prompt read causally or both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dualm.data.tokenizer import EOS, PAD
from dualm.generation.sampling import Dice, Sampling, sample
from dualm.model.attention import AttentionMask, Kind
from dualm.model.cache import KVCache
from dualm.model.transformer import Transformer


@torch.no_grad()
def decode(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    length: int,
    dice: Sequence[Dice],
    sampling: Sampling,
    attention: Literal["causal", "prefix"] = "causal",
) -> Iterator[np.ndarray]:
    """Extend each prompt `[k]` by up to `length` tokens; yields one token of every row at a time, `[rows]`.

    A row ends with its own `</s>`, which it yields from then on; the iterator ends when all rows have. `attention`
    is how the prompt is read: `prefix` lets its tokens see each other both ways, what follows is causal in any case.
    The longest prompt and `length` fit into the model's context together.
    """
    longest = max(map(len, prompts))
    capacity = longest + length
    assert capacity <= model.config.context, (longest, length)
    device = next(model.parameters()).device
    cache = KVCache(model.config, len(prompts), capacity, device)
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    cache.shift_B -= padding
    ragged = len({len(prompt) for prompt in prompts}) > 1
    real = (torch.arange(capacity, device=device) >= padding[:, None])[:, None, None] if ragged else None
    logits = _read_prompts(model, prompts, real, attention, cache)
    rows, ended = np.arange(len(prompts)), np.zeros(len(prompts), dtype=bool)
    for step in range(length):
        tokens = sample(logits, rows, dice, sampling)
        drawn = tokens.cpu().numpy()
        yield np.where(ended, EOS, drawn)
        ended |= drawn == EOS
        if ended.all() or step == length - 1:
            return
        column = slice(longest + step, longest + step + 1)
        visible = None if real is None else real[..., : column.stop]
        logits = model.lm_head(model.extend(tokens[:, None], column, visible, cache)[:, 0])


def _read_prompts(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    real: Tensor | None,
    attention: Literal["causal", "prefix"],
    cache: KVCache,
) -> Tensor:
    """Fill the cache with the prompts, padded on the left so that all end in one column; the logits after each, `[rows, vocab]`.

    `real` bool `[rows, 1, 1, capacity]` says which columns hold no padding; None: all. Padding sees itself alone.
    """
    longest = max(map(len, prompts))
    padded = np.stack([np.pad(prompt, (longest - len(prompt), 0), constant_values=PAD) for prompt in prompts])
    inputs = torch.from_numpy(padded).to(cache.shift_B.device)
    visible = None
    if real is not None or attention == "prefix":
        kind: Kind = "causal" if attention == "causal" else "bidirectional"
        visible = AttentionMask(kind).dense(len(prompts), longest, inputs.device)
        if real is not None:
            itself = torch.eye(longest, dtype=torch.bool, device=inputs.device)
            visible = visible & real[..., :longest] | itself
    hidden = model.extend(inputs, slice(0, longest), visible, cache)
    return model.lm_head(hidden[:, -1])
