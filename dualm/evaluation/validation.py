"""Validation: one model read in several ways on the same windows, every time.

The readings are those of `dualm.evaluation.readings`. In addition:

    valid/md_loss_t0.05 ... _t0.95   the windows of the NELBO by mask rate, in bins of a tenth: cross-entropy of masked tokens

The NELBO is the mean of those bins, so they show at which mask rates it is large. All are nats per token. The readings have a
standard error over windows (`..._se`) and bits per byte (`..._bpb`). The noise is a function of the window alone, so two
validations differ by the model and nothing else.

With `data.format: pairs` the bound averages over all of a response, including the padding `</s>`, which the AR readings
exclude: there the two cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dualm.config import Recipe
from dualm.data.windows import Window, Windows
from dualm.evaluation.readings import READINGS
from dualm.evaluation.statistics import weighted_mean
from dualm.objectives.example import Batch, Example, Objective, collate
from dualm.randomness import stream

RATE_BINS = 10
Score = Callable[[Batch], torch.Tensor]  # a batch -> loss of each of its windows [batch], nats per token


@dataclass(frozen=True)
class ValidationSet:
    """Windows spread evenly over the validation split."""

    windows: Sequence[Window]
    tokens_per_byte: float  # predicted tokens of the split over its UTF-8 bytes

    @classmethod
    def of(cls, recipe: Recipe, windows: Windows, tokens_per_byte: float) -> ValidationSet:
        chosen = np.linspace(0, len(windows) - 1, min(recipe.validate.windows, len(windows))).astype(int)
        return cls([windows[index] for index in chosen.tolist()], tokens_per_byte)


def validate(data: ValidationSet, recipe: Recipe, score: Score, rank: int = 0, world: int = 1) -> dict[str, float]:
    """All readings of the model behind `score`. Every rank must call it; each scores its share of the windows."""
    results: dict[str, float] = {}
    for reading in READINGS.values():
        objective = reading.objective(recipe.objective.shifted)
        made = [examples(data, objective, draw, reading.draws) for draw in range(reading.draws)]
        drawn = np.stack([score_all(draw, recipe, score, rank, world) for draw in made])
        tokens = np.array([reading.scored(window) for window in data.windows])
        mean, error = weighted_mean(drawn.mean(axis=0), tokens)
        per_byte = data.tokens_per_byte / math.log(2)
        results |= {reading.metric: mean, f"{reading.metric}_se": error, reading.bits: mean * per_byte}
        if reading.bound:
            rates = np.array([[example.rate for example in draw] for draw in made])
            results |= by_rate(drawn, rates, np.broadcast_to(tokens, drawn.shape))
    return results


def by_rate(losses: np.ndarray, rates: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """Mean loss in each bin of the mask rate that an example fell into; all three of one shape."""
    bins = np.clip(np.ceil(rates * RATE_BINS).astype(int) - 1, 0, RATE_BINS - 1)
    found = {}
    for bin in range(RATE_BINS):
        here = (bins == bin) & (tokens > 0)
        if here.any():
            centre = (bin + 0.5) / RATE_BINS
            found[f"valid/md_loss_t{centre:.2f}"] = float(np.average(losses[here], weights=tokens[here]))
    return found


def examples(data: ValidationSet, objective: Objective, draw: int, draws: int) -> list[Example]:
    """Draw number `draw` of every window; its u lie in [draw, draw + 1) / draws, in an order that never changes."""
    n = len(data.windows)
    u = (draw + (stream(0, "validation order").permutation(n) + 0.5) / n) / draws
    return [objective(window, u[row], stream(0, "validation", row, draw)) for row, window in enumerate(data.windows)]


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
