"""Autoregressive decoding from a key-value cache, the prompt read causally or both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dualm.data.tokenizer import EOS, PAD
from dualm.generation.sampling import Dice, Sampling, sample
from dualm.model.attention import AttentionMask
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
    lengths = np.array([len(prompt) for prompt in prompts])
    capacity = int(lengths.max()) + length
    assert capacity <= model.config.context, (lengths, length)
    device = next(model.parameters()).device
    cache = KVCache(model.config, len(prompts), capacity, device)
    column = torch.from_numpy(lengths).to(device)
    logits = _read_prompts(model, prompts, column, attention, cache)
    rows, ended = np.arange(len(prompts)), np.zeros(len(prompts), dtype=bool)
    seen = torch.arange(capacity, device=device)
    for step in range(length):
        tokens = sample(logits, rows, dice, sampling)
        drawn = tokens.cpu().numpy()
        yield np.where(ended, EOS, drawn)
        ended |= drawn == EOS
        if ended.all() or step == length - 1:
            return
        used = int(lengths.max()) + step + 1
        visible = (seen[:used] <= column[:, None])[:, None, None]
        logits = model.lm_head(model.extend(tokens[:, None], column[:, None], visible, cache)[:, 0])
        column = column + 1


def _read_prompts(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    lengths: Tensor,
    attention: Literal["causal", "prefix"],
    cache: KVCache,
) -> Tensor:
    """Fill the cache with the prompts; the logits after each of them, `[rows, vocab]`."""
    longest = max(len(prompt) for prompt in prompts)
    padded = np.stack([np.pad(prompt, (0, longest - len(prompt)), constant_values=PAD) for prompt in prompts])
    inputs = torch.from_numpy(padded).to(lengths.device)
    mask = AttentionMask(attention, prefix=lengths if attention == "prefix" else None)
    visible = mask.dense(len(prompts), longest, lengths.device)
    columns = torch.arange(longest, device=lengths.device).expand(len(prompts), -1)
    hidden = model.extend(inputs, columns, visible, cache)
    return model.lm_head(hidden[torch.arange(len(prompts), device=lengths.device), lengths - 1])
