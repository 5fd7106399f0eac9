"""Drawing tokens from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.errors import UserError
from dualm.randomness import stream

NEVER = (PAD, BOS, MASK)  # tokens no reader wants to see


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Raises UserError for a value outside its range."""

    temperature: float = 1.0  # 0: the most likely token
    top_k: int = 0  # only the k most likely tokens; 0: all
    top_p: float = 1.0  # only the fewest tokens that hold this much of the probability (Holtzman et al. 2020)
    forbidden: tuple[int, ...] = NEVER

    def __post_init__(self) -> None:
        _expect(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _expect(self.top_k >= 0, "top_k", self.top_k, "0 or more")
        _expect(0 < self.top_p <= 1, "top_p", self.top_p, "a number above 0, at most 1")


def _expect(condition: bool, name: str, value: float, expected: str) -> None:
    if not condition:
        raise UserError(f"{name}: got {value}, expected {expected}")


class Dice(NamedTuple):
    """The randomness of one generated text: of its positions on the host, of its tokens where the model is."""

    positions: np.random.Generator
    tokens: torch.Generator

    @classmethod
    def of(cls, seed: int, text: int, device: torch.device) -> Dice:
        """Those of text number `text`: the same whatever else is generated beside it."""
        positions = stream(seed, "generate", text)
        return cls(positions, torch.Generator(device).manual_seed(int(positions.integers(2**63))))


def allowed(logits: Tensor, forbidden: tuple[int, ...]) -> Tensor:
    """A float64 copy of logits `[n, vocab]` in which the forbidden tokens are impossible."""
    return logits.double().index_fill_(-1, _ids(forbidden, logits.device), -torch.inf)


@lru_cache(maxsize=16)
def _ids(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    """Tokens as a tensor, kept: to move it to the device for every token drawn would wait for the device each time."""
    return torch.tensor(tokens, dtype=torch.int64, device=device)


def narrowed(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits `[n, vocab]` divided by the temperature, with -inf outside the top k and the nucleus."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all that is likelier
        beyond = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(beyond, -torch.inf)
    return logits


def sample(logits: Tensor, texts: np.ndarray, dice: Sequence[Dice], sampling: Sampling) -> Tensor:
    """Draw one token for each row of `logits` `[n, vocab]`, by the Gumbel-max trick in float64: int64 `[n]`.

    float32 Gumbel noise silently lowers the temperature (Zheng et al. 2024), so the noise is float64. Row i belongs to
    text `texts[i]` (in rising order) and draws from its dice.
    """
    if sampling.temperature == 0:
        return logits.index_fill(-1, _ids(sampling.forbidden, logits.device), -torch.inf).argmax(-1)
    logits = narrowed(allowed(logits, sampling.forbidden), sampling)
    noise = torch.empty_like(logits)
    ends = np.searchsorted(texts, np.arange(len(dice)), side="right").tolist()
    for one, start, end in zip(dice, [0, *ends], ends, strict=False):
        if end > start:
            noise[start:end].exponential_(generator=one.tokens)
    return logits.sub_(noise.log_()).argmax(-1)


def before_end(tokens: np.ndarray) -> np.ndarray:
    """The tokens before the first `</s>`; all of them if there is none."""
    ends = np.flatnonzero(tokens == EOS)
    return tokens[: ends[0]] if len(ends) else tokens
