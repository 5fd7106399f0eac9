"""FlashAttention over packed documents of different lengths. CUDA, bf16 and fp16.

A prefix mask takes two calls: all positions read causally, then those of the prefixes both ways among themselves, which takes the place
of what the first call made of them. Behind a prefix, causal is what the mask asks for.

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
from dualm.model.packing import expand_heads, pack, starts, unpack, within_prefix

# (q, k, v [tokens, heads or kv_heads, head_dim], starts [runs + 1], longest run, causal) → [tokens, heads, head_dim]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor]


class Lowered(NamedTuple):
    kernel: Kernel
    starts: Tensor
    longest: int  # an upper bound: the true one would have to be read from the device and change with every batch
    causal: bool
    prefix: tuple[Tensor, Tensor] | None = None  # places of the prefixes' positions, and where their runs start


@functools.cache
def missing() -> str | None:
    if not torch.cuda.is_available():
        return "a CUDA device"
    return None if torch.cuda.get_device_capability() >= (8, 0) else "a GPU of compute capability 8.0 or newer"


def lower(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Lowered:
    runs = starts(mask, batch, length).to(device, non_blocking=True)
    if mask.kind != "prefix":
        return Lowered(kernel(), runs, length, mask.kind == "causal")
    places, inner = (part.to(device, non_blocking=True) for part in within_prefix(mask, batch, length))
    return Lowered(kernel(), runs, length, True, (places, inner) if len(places) else None)


def attend(q: Tensor, k: Tensor, v: Tensor, lowered: Lowered) -> Tensor:
    queries, keys, values = pack(q), pack(k), pack(v)
    out = lowered.kernel(queries, keys, values, lowered.starts, lowered.longest, lowered.causal)
    if lowered.prefix is not None:
        places, runs = lowered.prefix
        inside = lowered.kernel(queries[places], keys[places], values[places], runs, lowered.longest, False)
        out = out.index_copy(0, places, inside)
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
