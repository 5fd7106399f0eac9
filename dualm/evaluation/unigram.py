"""The unigram baseline: what a model that ignores all context would score."""

from __future__ import annotations

import numpy as np

from dualm.data.tokenizer import BOS, PAD
from dualm.evaluation.validation import ValidationSet, weighted_mean
from dualm.objectives.batches import ReadTokens

COUNTED = 20_000_000  # tokens counted at most: by then every frequent token's share is known to 0.1 %


def unigram_nll(data: ValidationSet, read: ReadTokens, available: int, vocab: int) -> tuple[float, float]:
    """Nats per token and standard error on the validation windows' targets.

    Counts are those of the training stream's front with one added to each, so an unseen token has a price.
    """
    counts = np.bincount(read(0, min(available, COUNTED)), minlength=vocab) + 1
    counts[[BOS, PAD]] = 0
    surprise = -np.log(np.maximum(counts, 1) / counts.sum())
    targets = data.windows[:, 1:]
    predicted = (targets != BOS) & (targets != PAD)
    tokens = predicted.sum(axis=1)
    return weighted_mean((surprise[targets] * predicted).sum(axis=1) / np.maximum(1, tokens), tokens)
