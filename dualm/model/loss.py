"""Cross-entropy of a linear head without ever holding all its logits.

What does not fit in one chunk is worked on chunk by chunk: its logits exist only meanwhile, in the forward pass and,
recomputed, in the backward pass. Memory is CHUNK_ELEMENTS per temporary instead of rows times vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25  # logits held at once: 128 MiB in float32


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    excluded: int | None = None,
    chunk_elements: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(hidden @ weight.T + bias), row by row, in float32.

    Args:
        hidden: `[rows, hidden]`; zero rows are fine and keep the graph connected.
        weight: `[vocab, hidden]`.
        targets: `[rows]` int64.
        excluded: token whose logit is −inf; it must not be a target.
        chunk_elements: most logits held at once; CHUNK_ELEMENTS by default.
        bias: `[vocab]`; none by default.

    Returns:
        (cross-entropy in nats, log of the softmax's denominator), both float32 `[rows]`.
    """
    rows = max(1, (chunk_elements or CHUNK_ELEMENTS) // weight.shape[0])
    if len(hidden) <= rows:  # one chunk may as well keep its logits: nothing is computed twice
        return _chunk(hidden, weight, targets, excluded, bias)
    chunks = [
        checkpoint(_chunk, part, weight, target, excluded, bias, use_reentrant=False, preserve_rng_state=False)
        for part, target in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    nll, log_z = zip(*chunks, strict=True)
    return torch.cat(nll), torch.cat(log_z)


def linear_logits(hidden: Tensor, weight: Tensor, excluded: int | None = None, bias: Tensor | None = None) -> Tensor:
    """`[…, hidden]` → logits `[…, vocab]` in float32, that of token `excluded` −inf."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if excluded is not None:
        logits.select(-1, excluded).fill_(float("-inf"))
    return logits


def _chunk(
    hidden: Tensor, weight: Tensor, targets: Tensor, excluded: int | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = linear_logits(hidden, weight, excluded, bias)
    log_z = logits.logsumexp(-1)
    return log_z - logits.gather(-1, targets[:, None]).squeeze(-1), log_z
