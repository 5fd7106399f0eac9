"""Drawing tokens from logits."""

from __future__ import annotations

import numpy as np
import torch

from dualm.data.tokenizer import BOS, MASK, PAD

NEVER = [PAD, BOS, MASK]  # tokens no reader wants to see


def sample(logits: torch.Tensor, rng: np.random.Generator, temperature: float = 1.0) -> np.ndarray:
    """Draw one token per row of `logits` `[rows, vocab]` by the Gumbel-max trick, in float64.

    float32 Gumbel noise silently lowers the temperature (Zheng et al. 2024), hence the precision.
    Temperature 0 takes the most likely token. `<pad>`, `<s>` and `<mask>` are never drawn.
    """
    scores = logits.double().cpu().numpy()
    scores[:, NEVER] = -np.inf
    if temperature > 0:
        scores = scores / temperature + rng.gumbel(size=scores.shape)
    return scores.argmax(axis=-1)
