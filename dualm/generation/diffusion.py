"""Diffusion sampling: start from masks, commit tokens step by step."""

from __future__ import annotations

import numpy as np
import torch

from dualm.data.tokenizer import MASK
from dualm.generation.sampling import sample
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer


@torch.no_grad()
def ancestral(
    model: Transformer,
    tokens: np.ndarray,
    steps: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    shifted: bool = True,
) -> np.ndarray:
    """Fill the masks of `tokens` `[length]` along the reverse process (MDLM, eq. 7 with alpha_t = 1 - t).

    Going from t to s each masked token is committed with probability (t - s) / t, drawn from the model's
    prediction; the last step commits what is left. Given tokens never change. Position 0 must be given
    when outputs are shifted.
    """
    device = next(model.parameters()).device
    tokens = tokens.copy()
    for left in range(steps, 0, -1):  # t = left / steps, s = (left - 1) / steps
        masked = np.flatnonzero(tokens == MASK)
        committed = masked[rng.random(len(masked)) < 1 / left]
        if len(committed) == 0:
            continue
        rows = torch.from_numpy(committed - 1 if shifted else committed).to(device)
        inputs = torch.from_numpy(tokens)[None].to(device)
        logits = model.logits(inputs, AttentionMask("bidirectional"), rows, excluded=MASK)
        tokens[committed] = sample(logits, rng, temperature)
    return tokens
