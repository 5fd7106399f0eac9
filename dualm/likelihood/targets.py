"""Log-probabilities of targets under logits that come in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch


def with_targets(chunks: Iterable[torch.Tensor], targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    start = 0
    for chunk in chunks:
        yield chunk, targets[start : start + len(chunk)]
        start += len(chunk)


def compare(chunk: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each target `[n]` under logits `[n, vocab]`, and whether it is the most likely token."""
    log_p = chunk.gather(-1, targets[:, None]).squeeze(-1) - chunk.logsumexp(-1)
    return log_p, chunk.argmax(-1) == targets
