"""Cross-entropy of a linear head in one buffer, never with more than CHUNK_ELEMENTS logits at once.

    forward     E = exp(logits − max) in the place of the logits, Z = Σ E (both up to the same factor, exp(max))
    backward    d logits = s E / Z − g onehot(target), with s = g + g_z

where g and g_z are the gradients of the cross-entropy and of log Z. The factors of the rows and the one-hot part can be applied to the small
sides of the two matrix products of the backward pass, which then read E as it is.

What does not fit in one chunk is worked on chunk by chunk: its logits exist only meanwhile, in the forward pass and,
recomputed, in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualm.model.size import CHUNK_ELEMENTS

PIECE_ELEMENTS = 2**18  # of a chunk, exponentiated at once on a CPU: 1 MiB in float32, which its cache holds


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    excluded: int | None = None,
    chunk_elements: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(hidden @ weight.T + bias), row by row, in float32.

    Args:
        hidden: `[rows, hidden]`; zero rows are fine and keep the graph connected.
        weight: `[vocab, hidden]`.
        targets: `[rows]` int64.
        excluded: token whose logit is −inf; it must not be a target.
        chunk_elements: most logits held at once; CHUNK_ELEMENTS by default.
        bias: `[vocab]`; none by default.

    Returns:
        (cross-entropy in nats, log of the softmax's denominator), both float32 `[rows]`.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    rows = max(1, (chunk_elements or CHUNK_ELEMENTS) // weight.shape[0])
    return LinearCrossEntropy.apply(hidden, weight, bias, targets, excluded, rows)  # pyright: ignore[reportReturnType]


def linear_logits(hidden: Tensor, weight: Tensor, excluded: int | None = None, bias: Tensor | None = None) -> Tensor:
    """`[…, hidden]` → logits `[…, vocab]` in float32, that of token `excluded` −inf."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if excluded is not None:
        logits.select(-1, excluded).fill_(float("-inf"))
    return logits


def exponentiate(logits: Tensor) -> tuple[Tensor, Tensor]:
    """In place logits `[rows, vocab]` → exp(logits − max); returns log Z and 1 / Σ exp(logits − max), both `[rows]`."""
    piece = max(1, (PIECE_ELEMENTS if logits.device.type == "cpu" else logits.numel()) // logits.shape[1])
    log_z, inverse = logits.new_empty(len(logits)), logits.new_empty(len(logits))
    for start in range(0, len(logits), piece):
        part = logits[start : start + piece]
        largest = part.amax(-1)
        total = part.sub_(largest[:, None]).exp_().sum(-1)
        log_z[start : start + piece] = largest + total.log()
        inverse[start : start + piece] = 1 / total
    return log_z, inverse


class LinearCrossEntropy(torch.autograd.Function):
    """(hidden, weight, bias, targets, excluded, rows of a chunk) → (cross-entropy, log Z)."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, excluded: int | None, rows: int
    ) -> tuple[Tensor, Tensor]:
        nll, log_z = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
        kept: tuple[Tensor, ...] = ()
        for here in chunks(len(hidden), rows):
            logits = linear_logits(hidden[here], weight, excluded, bias)
            at_target = logits.gather(-1, targets[here, None]).squeeze(-1)
            log_z[here], inverse = exponentiate(logits)
            nll[here] = log_z[here] - at_target
            kept = (logits, inverse) if len(hidden) <= rows else ()
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.excluded, ctx.rows = excluded, rows
        return nll, log_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, g_z: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, *kept = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        for here in chunks(len(hidden), ctx.rows):
            x, target, minus = hidden[here], targets[here], -g[here, None]
            exponentials, inverse = kept or _exponentials(x, weight, ctx.excluded, bias)
            scale = ((g + g_z)[here] * inverse)[:, None]
            if x.dtype == exponentials.dtype:
                d_hidden[here] = (exponentials @ weight).mul_(scale).addcmul_(weight[target], minus)
                d_weight.addmm_(exponentials.T, x * scale).index_add_(0, target, x * minus)
                if d_bias is not None:
                    d_bias.addmv_(exponentials.T, scale[:, 0]).index_add_(0, target, minus[:, 0])
            else:  # in half precision the difference must be taken before it is rounded
                d_logits = (exponentials * scale).scatter_add_(-1, target[:, None], minus).to(x.dtype)
                d_hidden[here] = d_logits @ weight
                d_weight.addmm_(d_logits.T, x)
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
        return d_hidden, d_weight, d_bias, None, None, None


def _exponentials(hidden: Tensor, weight: Tensor, excluded: int | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    logits = linear_logits(hidden, weight, excluded, bias)
    return logits, exponentiate(logits)[1]


def chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
