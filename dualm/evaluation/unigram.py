"""The unigram baseline: what a model that ignores all context would score."""

from __future__ import annotations

import numpy as np

from dualm.data.tokenizer import BOS, PAD
from dualm.data.windows import Window, Windows
from dualm.evaluation.statistics import weighted_mean
from dualm.evaluation.validation import ValidationSet
from dualm.objectives.autoregressive import next_token

COUNTED = 5_000_000  # tokens counted at most: enough to know the share of every frequent token within a few parts in a thousand


def unigram_nll(data: ValidationSet, training: Windows, unique: int, vocab: int) -> tuple[float, float]:
    """Nats per token and standard error on what the AR reading of the validation windows predicts.

    Counts are those of its targets in the first `unique` training windows, plus one for each token, so that an unseen token
    has a finite loss.
    """
    counts = np.ones(vocab, dtype=np.int64)
    for index in range(min(unique, COUNTED // (len(data.windows[0].tokens) - 1))):
        counts += np.bincount(_predicted(training[index]), minlength=vocab)
    counts[[BOS, PAD]] = 0
    surprise = -np.log(np.maximum(counts, 1) / counts.sum())
    targets = [_predicted(window) for window in data.windows]
    tokens = np.array([len(row) for row in targets])
    return weighted_mean(np.array([surprise[row].sum() / max(1, len(row)) for row in targets]), tokens)


def _predicted(window: Window) -> np.ndarray:
    example = next_token(window, first=window.given - 1)
    return example.targets[example.weights > 0]
