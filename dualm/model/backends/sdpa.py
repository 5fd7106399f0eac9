"""torch's scaled_dot_product_attention: the reference. Every mask, every device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dualm.model.attention import AttentionMask


class Lowered(NamedTuple):
    visible: Tensor | None  # bool [batch or 1, 1, length, length]
    causal: bool


def missing() -> str | None:
    return None


def lower(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Lowered:
    # Without a mask tensor torch may pick its fused kernels, so the two plain masks go without.
    if mask.document_ids is None and mask.prefix is None:
        return Lowered(None, mask.kind == "causal")
    return Lowered(mask.dense(batch, length, device), False)


def attend(q: Tensor, k: Tensor, v: Tensor, lowered: Lowered) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=lowered.visible, is_causal=lowered.causal, enable_gqa=grouped
    )
