"""Validation: one model read three ways on the same windows, every time.

    valid/ar_nll      causal, all targets
    valid/prefix_nll  the first half read both ways, the targets after it
    valid/ar_nll_second_half   causal, on exactly the targets of prefix_nll
    valid/md_nelbo    uniform t, weights 1/t: the diffusion bound

All are nats per token, with a standard error over windows (`..._se`) and bits per byte (`..._bpb`). The noise
is a function of the window alone, so two readings differ by the model and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dualm.config import Recipe
from dualm.data.tokenizer import BOS, PAD
from dualm.objectives.autoregressive import autoregressive, with_prefix
from dualm.objectives.batches import ReadTokens
from dualm.objectives.example import Batch, Example, Objective, collate
from dualm.objectives.masked_diffusion import MaskedDiffusion, maskable
from dualm.objectives.time import TIME_SAMPLERS
from dualm.randomness import stream

Score = Callable[[Batch], torch.Tensor]  # a batch -> loss of each of its windows [batch], nats per token


@dataclass(frozen=True)
class Reading:
    """One way to read a window of tokens `[context + 1]`."""

    objective: Objective
    scored: Callable[[np.ndarray], int]  # how many tokens of the window its loss averages over
    draws: int = 1  # examples per window, their u spread over [0, 1)


def readings(shifted: bool) -> dict[str, Reading]:
    def half(window: np.ndarray) -> int:
        return (len(window) - 1) // 2

    def prefix(window: np.ndarray, u: float, rng: np.random.Generator) -> Example:
        return with_prefix(window, half(window))

    def causal_half(window: np.ndarray, u: float, rng: np.random.Generator) -> Example:
        return replace(prefix(window, u, rng), attention="causal")

    diffusion = MaskedDiffusion(TIME_SAMPLERS["uniform"], shifted=shifted)
    return {
        "ar_nll": Reading(autoregressive, lambda window: count(window[1:])),
        "ar_nll_second_half": Reading(causal_half, lambda window: count(window[half(window) :])),
        "prefix_nll": Reading(prefix, lambda window: count(window[half(window) :])),
        "md_nelbo": Reading(diffusion, lambda window: len(maskable(window[:-1])), draws=4),
    }


def count(tokens: np.ndarray) -> int:
    """How many of `tokens` are ever predicted: all but `<s>` and `<pad>`."""
    return int(np.count_nonzero((tokens != BOS) & (tokens != PAD)))


@dataclass(frozen=True)
class ValidationSet:
    """Windows spread evenly over the validation stream, `[windows, context + 1]`."""

    windows: np.ndarray
    tokens_per_byte: float  # predicted tokens of the split over its UTF-8 bytes

    @classmethod
    def of(cls, recipe: Recipe, read: ReadTokens, available: int, tokens_per_byte: float) -> ValidationSet:
        span = recipe.model.context + 1
        whole = max(1, (available - 1) // (span - 1))
        chosen = np.linspace(0, whole - 1, min(recipe.validate.windows, whole)).astype(int)
        windows = [read(int(start), min(available, int(start) + span)) for start in chosen * (span - 1)]
        short = [np.pad(window, (0, span - len(window))) for window in windows]  # a split shorter than a window
        return cls(np.stack(short), tokens_per_byte)


def validate(data: ValidationSet, recipe: Recipe, score: Score, rank: int = 0, world: int = 1) -> dict[str, float]:
    """All readings of the model behind `score`. Every rank must call it; each scores its share of the windows."""
    results: dict[str, float] = {}
    for name, reading in readings(recipe.objective.shifted).items():
        drawn = [score_all(examples(data, reading, draw), recipe, score, rank, world) for draw in range(reading.draws)]
        tokens = np.array([reading.scored(window) for window in data.windows])
        mean, error = weighted_mean(np.mean(drawn, axis=0), tokens)
        per_byte = data.tokens_per_byte / math.log(2)
        base = f"valid/{name.removesuffix('_nll').removesuffix('_nelbo')}"
        results |= {f"valid/{name}": mean, f"valid/{name}_se": error, f"{base}_bpb": mean * per_byte}
    return results


def examples(data: ValidationSet, reading: Reading, draw: int) -> list[Example]:
    """Draw number `draw` of every window; its u lie in [draw, draw + 1) / draws, in an order fixed for good."""
    n = len(data.windows)
    u = (draw + (stream(0, "validation order").permutation(n) + 0.5) / n) / reading.draws
    return [
        reading.objective(window, u[row], stream(0, "validation", row, draw)) for row, window in enumerate(data.windows)
    ]


def score_all(made: Sequence[Example], recipe: Recipe, score: Score, rank: int, world: int) -> np.ndarray:
    """The loss of every example, `[examples]`, from the shares of all ranks."""
    n, size = len(made), recipe.validate.batch
    losses = torch.zeros(n, dtype=torch.float64)
    starts = range(0, n, size)
    for first in range(0, len(starts), world):  # every rank runs every round: a sharded model needs all of them
        start = starts[min(first + rank, len(starts) - 1)]
        values = score(collate(made[start : start + size], recipe.data.keep_in_document)).double().cpu()
        if first + rank < len(starts):
            losses[start : start + len(values)] = values
    if world > 1:
        gathered = losses.to("cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.all_reduce(gathered)
        losses = gathered.cpu()
    return losses.numpy()


def weighted_mean(losses: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Mean loss per token and its standard error, windows being the independent units.

    `losses` `[windows]` are per token, `tokens` `[windows]` how many they average over (ratio estimator).
    """
    total = tokens.sum()
    mean = float((losses * tokens).sum() / total)
    deviations = (losses - mean) * tokens
    n = len(losses)
    return mean, float(np.sqrt((deviations**2).sum() * n / max(1, n - 1)) / total)
