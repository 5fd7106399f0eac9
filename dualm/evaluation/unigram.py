"""The unigram baseline: what a model that ignores all context would score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dualm.data.tokenizer import BOS, PAD
from dualm.data.windows import Window, Windows
from dualm.evaluation.statistics import weighted_mean
from dualm.evaluation.validation import ValidationSet
from dualm.objectives.autoregressive import next_token

COUNTED = 5_000_000  # tokens counted at most: enough to know the share of every frequent token within a few parts in a thousand


def unigram_nll(
    data: ValidationSet, unique: Sequence[Windows], shares: Sequence[float], vocab: int
) -> tuple[float, float]:
    """Nats per token and standard error on what the AR reading of the validation windows predicts.

    Counts are those of its targets in the unique training windows of each source, weighted so that the source has its share,
    plus one for each token, so that an unseen token has a finite loss.
    """
    most = COUNTED // (len(data.windows[0].tokens) - 1)
    total = min(most, sum(map(len, unique)))
    counts = np.ones(vocab)
    for windows, share in zip(unique, shares, strict=True):
        counted = min(len(windows), most)
        found = sum(np.bincount(_predicted(windows[index]), minlength=vocab) for index in range(counted))
        counts += found * (share * total / counted)
    counts[[BOS, PAD]] = 0
    surprise = -np.log(np.where(counts > 0, counts, 1) / counts.sum())
    targets = [_predicted(window) for window in data.windows]
    tokens = np.array([len(row) for row in targets])
    return weighted_mean(np.array([surprise[row].sum() / max(1, len(row)) for row in targets]), tokens)


def _predicted(window: Window) -> np.ndarray:
    example = next_token(window, first=window.given - 1)
    return example.targets[example.weights > 0]
