"""Compiled FlexAttention (arXiv 2412.05496): every mask, skipping the blocks where nothing is visible. CUDA.

The block mask is built once per forward pass. Both it and the kernel are compiled for the sizes they meet first; a
second size makes torch compile once more, then for any size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualm.model.attention import AttentionMask, Kind

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Lowered(NamedTuple):
    kernel: Callable[..., Any]
    block_mask: Any  # torch's BlockMask


def missing() -> str | None:
    return None if find_spec("triton") else "the package triton"


def lower(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Lowered:
    if mask.document_ids is None and mask.prefix is None:
        return Lowered(_compiled()[0], _plain(mask.kind, batch, length, device))
    return Lowered(_compiled()[0], _block_mask(mask, batch, length, device))


def attend(q: Tensor, k: Tensor, v: Tensor, lowered: Lowered) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return lowered.kernel(q, k, v, block_mask=lowered.block_mask, enable_gqa=grouped)


def visibility(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Visible:
    """The mask as FlexAttention asks for it: (row, head, query position, key position) → visible?

    Every kind is a prefix mask (causal: of length 0, bidirectional: of the whole length) and a batch without borders
    is one document a row. So all masks share one function, and one compiled kernel serves both objectives.
    """
    ids, prefix = mask.document_ids, mask.prefix
    if ids is None:
        ids = torch.zeros(batch, length, device=device)
    if prefix is None:
        prefix = torch.full((batch,), length if mask.kind == "bidirectional" else 0, device=device)
    ids = ids.to(device, torch.int32, non_blocking=True)
    prefix = prefix.to(device, torch.int32, non_blocking=True)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((k <= q) | (k < prefix[b])) & (ids[b, q] == ids[b, k])

    return visible


def _block_mask(mask: AttentionMask, batch: int, length: int, device: torch.device) -> Any:
    return _compiled()[1](visibility(mask, batch, length, device), batch, None, length, length, device)


@functools.lru_cache(maxsize=8)
def _plain(kind: Kind, batch: int, length: int, device: torch.device) -> Any:
    # Depends on nothing but the sizes, so it is kept; made in inference mode it would be useless for training.
    with torch.inference_mode(False):
        return _block_mask(AttentionMask(kind), batch, length, device)


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention), torch.compile(create_block_mask)
