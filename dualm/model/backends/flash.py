"""FlashAttention over packed documents of different lengths. CUDA, bf16 and fp16; causal and bidirectional.

The kernel is flash-attn's where that package is installed, else the one inside torch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualm.model.attention import AttentionMask
from dualm.model.packing import expand_heads, pack, starts, unpack

# (q, k, v [tokens, heads or kv_heads, head_dim], starts [runs + 1], longest run, causal) → [tokens, heads, head_dim]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor]


class Lowered(NamedTuple):
    kernel: Kernel
    starts: Tensor
    longest: int  # an upper bound: the true one would have to be read from the device and change with every batch
    causal: bool


@functools.cache
def missing() -> str | None:
    if not torch.cuda.is_available():
        return "a CUDA device"
    return None if torch.cuda.get_device_capability() >= (8, 0) else "a GPU of compute capability 8.0 or newer"


def lower(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Lowered:
    return Lowered(kernel(), starts(mask, batch, length).to(device, non_blocking=True), length, mask.kind == "causal")


def attend(q: Tensor, k: Tensor, v: Tensor, lowered: Lowered) -> Tensor:
    out = lowered.kernel(pack(q), pack(k), pack(v), lowered.starts, lowered.longest, lowered.causal)
    return unpack(out, q.shape[0])


@functools.cache
def kernel() -> Kernel:
    """flash-attn's kernel, or torch's."""
    return _flash_attn if find_spec("flash_attn") else _torch_varlen()


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, causal: bool) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(q, k, v, starts, starts, longest, longest, causal=causal)


def _torch_varlen() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn

    # Older versions of torch say is_causal instead of a window, and want as many key heads as query heads.
    known = inspect.signature(varlen_attn).parameters
    has_window, has_groups = "window_size" in known, "enable_gqa" in known

    def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, causal: bool) -> Tensor:
        if not has_groups:
            k, v = expand_heads(k, q.shape[1]), expand_heads(v, q.shape[1])
        groups: dict[str, Any] = {"enable_gqa": True} if has_groups else {}
        # A window counts the positions visible to the left and to the right; -1 is all of them.
        side: dict[str, Any] = {"window_size": (-1, 0 if causal else -1)} if has_window else {"is_causal": causal}
        return varlen_attn(q, k, v, starts, starts, longest, longest, **side, **groups)  # pyright: ignore

    return attend
