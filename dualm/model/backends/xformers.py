"""xformers' memory-efficient attention with block-diagonal biases. CUDA; causal and bidirectional."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dualm.model.attention import AttentionMask
from dualm.model.packing import expand_heads, pack, starts, unpack


@functools.cache
def missing() -> str | None:
    if not torch.cuda.is_available():
        return "a CUDA device"
    return None if find_spec("xformers") else "the package xformers"


def lower(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Any:
    """One diagonal block per document."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask  # pyright: ignore[reportMissingImports]

    lengths = starts(mask, batch, length).diff().tolist()
    blocks = BlockDiagonalMask.from_seqlens(lengths, device=device)
    return blocks.make_causal() if mask.kind == "causal" else blocks


def attend(q: Tensor, k: Tensor, v: Tensor, lowered: Any) -> Tensor:
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    heads = q.shape[1]
    keys, values = expand_heads(pack(k), heads), expand_heads(pack(v), heads)
    out = memory_efficient_attention(pack(q)[None], keys[None], values[None], attn_bias=lowered)
    return unpack(out[0], q.shape[0])
