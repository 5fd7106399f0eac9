"""Documents as one long row: the form in which variable-length kernels take a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from dualm.model.attention import AttentionMask


def starts(mask: AttentionMask, batch: int, length: int) -> Tensor:
    """Where each run of equal document ids starts in the flattened batch, and behind them the end.

    A row of the batch always starts a run. Reads the values of `document_ids`: on an accelerator that waits for the
    device, on the host it doesn't.

    Returns:
        int32 `[runs + 1]`, from 0 to batch * length, where the document ids are.
    """
    ids = mask.document_ids
    if ids is None:
        return torch.arange(0, batch * length + 1, length, dtype=torch.int32)
    first = torch.ones(batch, length, dtype=torch.bool, device=ids.device)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    end = torch.tensor([batch * length], device=ids.device)
    return torch.cat([first.flatten().nonzero().flatten(), end]).to(torch.int32)


def within_prefix(mask: AttentionMask, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """The positions of the prefixes alone: their places in the flattened batch `[n]`, and `starts` of their runs `[runs + 1]`."""
    assert mask.prefix is not None
    inside = torch.arange(length, device=mask.prefix.device) < mask.prefix[:, None]
    places = inside.flatten().nonzero().flatten()
    run = torch.bucketize(places, starts(mask, batch, length).to(places.device), right=True)
    first = run.diff(prepend=run[:1] - 1).nonzero().flatten()
    return places, torch.cat([first, torch.tensor([len(places)], device=places.device)]).to(torch.int32)


def pack(x: Tensor) -> Tensor:
    """`[batch, heads, length, head_dim]` → `[batch * length, heads, head_dim]`."""
    return x.transpose(1, 2).flatten(0, 1)


def unpack(x: Tensor, batch: int) -> Tensor:
    """`[batch * length, heads, head_dim]` → `[batch, heads, length, head_dim]`."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each key or value head for its group of queries: `[tokens, kv_heads, head_dim]` → `[tokens, heads, …]`."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)
