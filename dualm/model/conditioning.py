"""Time conditioning: the mask rate as an input of the network, through adaptive layer norms (adaLN).

    rate                = share of <mask> among a row's tokens
    c                   = SiLU(W2 SiLU(W1 sinusoids(1000 · rate)))
    shift, scale, gate  = rows of M c, for every branch of every block; M starts at zero

    x + (1 + gate) · branch(norm(x) · (1 + scale) + shift)

The rate is read off the inputs, so that training, evaluation and generation cannot disagree about it. Autoregressive
inputs have rate 0; a packed window has one rate, however many documents it holds.

Source: Peebles and Xie 2023 (DiT), section 3.2, as an option of MDLM (Sahoo et al. 2024). There a branch is multiplied
by the gate alone, so that every block starts as the identity. Here the projection at a branch's end is zero at first
and does the same; with a zero gate behind it, neither of the two would ever get a gradient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualm.config import ModelConfig
from dualm.data.tokenizer import MASK, PAD
from dualm.model.size import AT_THE_END, SINUSOIDS, modulation_rows

TIME_SCALE = 1000.0  # diffusion models count time in thousandths, which the frequencies are made for
LONGEST = 10_000.0  # period of the slowest sinusoid over that of the fastest


class Modulation(NamedTuple):
    """What the rate does to a branch: `[B, 1, H]`, float32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None  # None in front of the head, which is no branch


Modulations = tuple[Modulation | None, Modulation | None]  # of attention and of SwiGLU


def modulate(normed_BLH: Tensor, modulation: Modulation | None) -> Tensor:
    """The input of a branch; as it is where nothing modulates."""
    return normed_BLH if modulation is None else normed_BLH * (1 + modulation.scale) + modulation.shift


def gated(added_BLH: Tensor, modulation: Modulation | None) -> Tensor:
    """What a branch adds to the residual stream; as it is where nothing modulates."""
    return added_BLH if modulation is None or modulation.gate is None else added_BLH * (1 + modulation.gate)


def mask_rate(inputs_BL: Tensor) -> Tensor:
    """Share of `<mask>` among the tokens of each row that are not `<pad>`: float32 `[B]`, 0 for a row of padding."""
    tokens_B = (inputs_BL != PAD).sum(1).clamp(min=1)
    return (inputs_BL == MASK).sum(1) / tokens_B


def sinusoids(rate_B: Tensor) -> Tensor:
    """The rate at many frequencies, `[B, SINUSOIDS]` (Vaswani et al. 2017, section 3.5, of 1000 times the rate)."""
    half = SINUSOIDS // 2
    frequency = torch.exp(-math.log(LONGEST) / half * torch.arange(half, device=rate_B.device))
    angle = TIME_SCALE * rate_B[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Conditioning(nn.Module):
    """From inputs to the modulations of all blocks, and of the last norm. One matrix M holds the rows of them all."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden, width = config.hidden, config.time_conditioning
        self.time_in = nn.Linear(SINUSOIDS, width, bias=False)
        self.time_out = nn.Linear(width, width, bias=False)
        self.modulation = nn.Linear(width, modulation_rows(config), bias=False)

    def forward(self, inputs_BL: Tensor) -> tuple[list[Modulations], Modulation]:
        c_BW = F.silu(self.time_out(F.silu(self.time_in(sinusoids(mask_rate(inputs_BL))))))
        # float32, since 1 + scale in half precision would round small scales away
        rows = self.modulation(c_BW).float().unflatten(-1, (-1, 1, self.hidden)).unbind(1)
        blocks, last = rows[:-AT_THE_END], rows[-AT_THE_END:]
        branches = [Modulation(*blocks[start : start + 3]) for start in range(0, len(blocks), 3)]
        return list(zip(branches[::2], branches[1::2], strict=True)), Modulation(*last)
