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
from dataclasses import dataclass

import numpy as np
import torch

from dualm.config import Recipe
from dualm.objectives.autoregressive import autoregressive, with_prefix
from dualm.objectives.batches import ReadTokens
from dualm.objectives.example import Batch, Example, collate
from dualm.objectives.masked_diffusion import MaskedDiffusion, maskable
from dualm.objectives.time import TIME_SAMPLERS
from dualm.randomness import stream

Score = Callable[[Batch], torch.Tensor]  # a batch -> loss of each of its windows [batch], nats per token
Reading = Callable[[np.ndarray, float, np.random.Generator], Example]

NELBO_DRAWS = 4  # masks per window: their quantiles are spread over (0, 1]


def second_half(window: np.ndarray, u: float, rng: np.random.Generator) -> Example:
    example = with_prefix(window, (len(window) - 1) // 2)
    return Example(example.inputs, example.targets, example.weights, "causal")


def readings(shifted: bool) -> dict[str, Reading]:
    return {
        "ar_nll": autoregressive,
        "ar_nll_second_half": second_half,
        "prefix_nll": lambda window, u, rng: with_prefix(window, (len(window) - 1) // 2),
        "md_nelbo": MaskedDiffusion(TIME_SAMPLERS["uniform"], shifted=shifted),
    }


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
        draws = NELBO_DRAWS if name == "md_nelbo" else 1
        losses = np.mean(
            [_losses(data, recipe, score, reading, draw / draws, 1 / draws, rank, world) for draw in range(draws)],
            axis=0,
        )
        mean, error = weighted_mean(losses, _tokens(data.windows, name))
        per_byte = data.tokens_per_byte / math.log(2)
        base = f"valid/{name.removesuffix('_nll').removesuffix('_nelbo')}"
        results |= {f"valid/{name}": mean, f"valid/{name}_se": error, f"{base}_bpb": mean * per_byte}
    return results


def weighted_mean(losses: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Mean loss per token and its standard error, windows being the independent units.

    `losses` `[windows]` are per token, `tokens` `[windows]` how many they average over (ratio estimator).
    """
    total = tokens.sum()
    mean = float((losses * tokens).sum() / total)
    deviations = (losses - mean) * tokens
    n = len(losses)
    return mean, float(np.sqrt((deviations**2).sum() * n / max(1, n - 1)) / total)


def _tokens(windows: np.ndarray, name: str) -> np.ndarray:
    """How many tokens each window's loss averages over, `[windows]`."""
    if name == "md_nelbo":
        return np.array([len(maskable(window[:-1])) for window in windows])
    rng = np.random.default_rng()
    return np.array([np.count_nonzero(readings(True)[name](window, 0.0, rng).weights) for window in windows])


def _losses(
    data: ValidationSet, recipe: Recipe, score: Score, reading: Reading, low: float, width: float, rank: int, world: int
) -> np.ndarray:
    """The loss of every window `[windows]`; u is spread over [low, low + width) in an order fixed for good."""
    n, size = len(data.windows), recipe.validate.batch
    strata = low + width * (stream(0, "validation order").permutation(n) + 0.5) / n
    losses = torch.zeros(n, dtype=torch.float64)
    batches: Sequence[int] = range(0, n, size)
    for first in range(0, len(batches), world):  # every rank runs every round: a sharded model needs all of them
        mine = batches[min(first + rank, len(batches) - 1)]
        rows = range(mine, min(mine + size, n))
        examples = [
            reading(data.windows[row], strata[row], stream(0, "validation", row, int(low * 1e6))) for row in rows
        ]
        values = score(collate(examples, recipe.data.keep_in_document)).double().cpu()
        if first + rank < len(batches):
            losses[mine : mine + len(values)] = values
    if world > 1:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        gathered = losses.to(device)
        torch.distributed.all_reduce(gathered)
        losses = gathered.cpu()
    return losses.numpy()
