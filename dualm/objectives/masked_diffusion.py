"""The masked diffusion objective: predict the masked tokens of a partly masked sequence.

The forward process of an absorbing-state diffusion turns tokens into `<mask>` at rate t; the network learns to reverse it. As in
MDLM (SUBS, Sahoo et al. 2024, section 3.2.3) a mask is never predicted, and unmasked tokens are carried over: they are inputs,
not targets. Shifted (MNTP, masked next-token prediction), the output at i predicts token i+1 as in the autoregressive objective:

    window    x_0  x_1  x_2  x_3  x_4
    inputs    x_0  [M]  x_2  [M]           position 0 is never masked: nothing predicts it
    targets   x_1   .   x_3   .            supervised where the *next* input is masked

The loss of a window is (1/N) * sum over supervised of w * cross-entropy, N its maskable positions. With
w = 1/t and t ~ U(0, 1] its mean is the NELBO in nats per token (MDLM, eq. 10; SMDM, eq. 4).

`mask_count: exact` masks k = ceil(N * t) positions with w = N/k. For uniform t, k is then uniform on
1..N, as the any-order bound requires: NELBO/N = mean over k of E[mean cross-entropy | k masked].
(Rounding N * t at random instead would draw k = 1 half as often again as it should, and k = N half as often.)

The released code of dual language models (Samuel and Charpentier 2025, pretraining/dataset.py and run_pretraining.py) differs in five
ways, each a key: it rounds L * t at random (`mask_count: rounded`), divides by all L inputs (`mean_over: window`), adds a floor to the
rate in the weight (`rate_floor: 1e-4`), may mask position 0 (`mask_first`), and always supervises the last output (`supervise_last`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from dualm.config import ObjectiveConfig
from dualm.data.tokenizer import BOS, MASK, PAD
from dualm.data.windows import Window
from dualm.objectives.example import Example
from dualm.objectives.time import UNIFORM, Density
from dualm.registry import Registry

# By `objective.weighting`: (mask rate, dt/ds = 1/q there, E[t]) -> weight of a masked token.
WEIGHTINGS: Registry[Callable[[float, float, float], float]] = Registry(
    "objective.weighting",
    {
        "elbo": lambda rate, slope, mean: 1 / rate,  # the NELBO if t is uniform
        "flat": lambda rate, slope, mean: 1 / mean,  # the same for every supervised token of the batch
        "importance": lambda rate, slope, mean: slope / rate,  # the NELBO whatever the density, where it is not zero
    },
)


def exact(
    positions: np.ndarray, t: float, time: Density, rng: np.random.Generator, length: int
) -> tuple[np.ndarray, float, float]:
    """k = ceil(N * t) of N positions; the rate is k/N."""
    n = max(1, len(positions))
    count = max(1, math.ceil(t * n))
    rate = count / n
    return rng.permutation(positions)[:count], rate, 1 / (n * (time.cdf(rate) - time.cdf(rate - 1 / n)))


def bernoulli(
    positions: np.ndarray, t: float, time: Density, rng: np.random.Generator, length: int
) -> tuple[np.ndarray, float, float]:
    """Each position with probability t, as MDLM and SMDM do; the rate is t."""
    return positions[rng.random(len(positions)) < t], t, time.slope(t)


def rounded(
    positions: np.ndarray, t: float, time: Density, rng: np.random.Generator, length: int
) -> tuple[np.ndarray, float, float]:
    """L * t rounded at random, at least 1, L the whole window; the rate is the share of L. More than are maskable: all, at rate 1."""
    count = max(1, int(length * t + rng.random()))
    rate = count / length if count <= len(positions) else 1.0
    return rng.permutation(positions)[:count], rate, time.slope(rate)


MaskCount = Callable[[np.ndarray, float, Density, np.random.Generator, int], tuple[np.ndarray, float, float]]

# By `objective.mask_count`: (maskable positions, t, its density, rng, length of the window) -> masked positions, mask rate, dt/ds there.
MASK_COUNTS: Registry[MaskCount] = Registry(
    "objective.mask_count", {"exact": exact, "bernoulli": bernoulli, "rounded": rounded}
)

# By `objective.mean_over`: (maskable inputs, inputs but for `<pad>`) -> what the loss of a window is divided by.
MEANS: Registry[Callable[[int, int], int]] = Registry(
    "objective.mean_over", {"maskable": lambda maskable, length: maskable, "window": lambda maskable, length: length}
)


@dataclass(frozen=True)
class MaskedDiffusion:
    time: Density = UNIFORM
    mask_count: str = "exact"
    weighting: str = "elbo"
    shifted: bool = True  # False: the output at i predicts token i (plain MDM)
    hide_prompt: float = 0.0  # share of windows whose given tokens are hidden (Ho and Salimans 2022, section 3.2)
    mean_over: str = "maskable"
    rate_floor: float = 0.0  # f of the rate (1 - f) * rate + f that weights are made of
    mask_first: bool = False  # position 0 may be masked; of shifted outputs none predicts it
    supervise_last: bool = False  # the output at the last position always predicts the token after the inputs

    @classmethod
    def of(cls, config: ObjectiveConfig, time: Density) -> MaskedDiffusion:
        return cls(time, **{field.name: getattr(config, field.name) for field in fields(cls) if field.name != "time"})

    def __call__(self, window: Window, u: float, rng: np.random.Generator) -> Example:
        """Mask the inputs of the window at rate t(u), but for its prompt."""
        positions = maskable(window, self.mask_first)
        length = int(np.count_nonzero(window.inputs != PAD))
        masked, rate, slope = MASK_COUNTS[self.mask_count](positions, self.time.quantile(u), self.time, rng, length)
        floored = (1 - self.rate_floor) * rate + self.rate_floor
        weight = WEIGHTINGS[self.weighting](floored, slope, self.time.mean)
        weight /= max(1, MEANS[self.mean_over](len(positions), length))
        example = mask_out(window.inputs, masked[masked > 0] if self.shifted else masked, weight, self.shifted)
        if self.mask_first:
            example.inputs[masked] = MASK
        if self.supervise_last and window.documents[-1] == window.documents[-2] and window.tokens[-1] != PAD:
            example.targets[-1], example.weights[-1] = window.tokens[-1], weight
        if self.hide_prompt and rng.random() < self.hide_prompt:
            example.inputs[1 : window.given] = MASK
        return replace(example, rate=rate, documents=window.documents[:-1])


def maskable(window: Window, first: bool = False) -> np.ndarray:
    """Positions of the inputs that may be masked: those with a token of their document before them, no prompt, no `<pad>`.

    So the first position is never masked, and no `<s>`; with `first` position 0 may be, unless it is `<s>`.
    """
    documents = window.documents[:-1]
    allowed = (window.inputs != PAD) & (np.diff(documents, prepend=documents[:1] - 1) == 0)
    allowed[0] = first and window.inputs[0] not in (PAD, BOS)
    allowed[: window.given] = False
    return np.flatnonzero(allowed)


def output_of(positions: np.ndarray, shifted: bool) -> np.ndarray:
    """The outputs that predict the tokens at `positions`: one earlier if outputs are shifted.

    Raises:
        ValueError: outputs are shifted and position 0 is among them: no output predicts it.
    """
    if shifted and not positions.all():
        raise ValueError("position 0 is masked, and no output of a shifted model predicts it")
    return positions - 1 if shifted else positions


def outputs_of(masked: np.ndarray, shifted: bool) -> np.ndarray:
    """The same of a batch: where `masked` `[rows, length]` is true, as flat indices into its outputs, in order."""
    row, position = np.nonzero(masked)
    return row * masked.shape[1] + output_of(position, shifted)


def mask_out(inputs: np.ndarray, masked: np.ndarray, weight: float | np.ndarray, shifted: bool) -> Example:
    """Hide the positions `masked` `[k]`; score each with `weight` (one or `[k]`) at the output that predicts it."""
    noisy = inputs.copy()
    noisy[masked] = MASK
    outputs = output_of(masked, shifted)
    targets, weights = np.zeros_like(inputs), np.zeros(len(inputs))
    targets[outputs] = inputs[masked]
    weights[outputs] = weight
    return Example(noisy, targets, weights, "bidirectional")
