"""Means with their standard errors."""

from __future__ import annotations

import numpy as np


def weighted_mean(losses: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Mean loss per token and its standard error, windows being the independent units.

    `losses` `[windows]` are per token, `tokens` `[windows]` how many they average over (ratio estimator).
    """
    total = tokens.sum()
    mean = float((losses * tokens).sum() / total)
    deviations = (losses - mean) * tokens
    n = len(losses)
    return mean, float(np.sqrt((deviations**2).sum() * n / max(1, n - 1)) / total)
