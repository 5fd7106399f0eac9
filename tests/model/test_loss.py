"""The chunked head against the naive one: values, gradients, memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dualm.model.loss import linear_cross_entropy, linear_logits

ROWS, HIDDEN, VOCAB = 23, 8, 50


def example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).requires_grad_()
    targets = torch.randint(4, VOCAB, (ROWS,), generator=generator)
    return hidden, weight, targets, torch.rand(ROWS, generator=generator) * 10


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("excluded", [None, 3])
@pytest.mark.parametrize("chunk_elements", [1, 7 * VOCAB, None])
def test_equals_naive_cross_entropy(excluded: int | None, chunk_elements: int | None, biased: bool) -> None:
    hidden, weight, targets, weights = example()
    bias = torch.linspace(-3, 3, VOCAB).requires_grad_() if biased else None
    logits = hidden @ weight.T + (0 if bias is None else bias)
    if excluded is not None:
        logits = logits.index_fill(-1, torch.tensor([excluded]), float("-inf"))
    nll, log_z = linear_cross_entropy(hidden, weight, targets, excluded, chunk_elements, bias)
    naive_nll, naive_z = F.cross_entropy(logits, targets, reduction="none"), logits.logsumexp(-1)
    torch.testing.assert_close((nll, log_z), (naive_nll, naive_z))

    loss, naive = ((weights * n).sum() + 0.1 * (weights * z**2).sum() for n, z in ((nll, log_z), (naive_nll, naive_z)))
    leaves = (hidden, weight) if bias is None else (hidden, weight, bias)
    got, want = (torch.autograd.grad(value, leaves, retain_graph=True) for value in (loss, naive))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_softmax_is_float32_under_autocast() -> None:
    hidden, weight, targets, _ = example()
    with torch.autocast("cpu", torch.bfloat16):
        nll, log_z = linear_cross_entropy(hidden, weight, targets)
        logits = F.linear(hidden, weight).float()
    assert nll.dtype == log_z.dtype == torch.float32
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="none"))


@pytest.mark.parametrize("chunk_elements", [7 * VOCAB, None])
def test_gradients_under_autocast_are_those_of_float32(chunk_elements: int | None) -> None:
    hidden, weight, targets, weights = example()
    bias = torch.linspace(-3, 3, VOCAB).requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        nll, log_z = linear_cross_entropy(hidden, weight, targets, 3, chunk_elements, bias)
        return torch.autograd.grad((weights * nll).sum() + 0.1 * (weights * log_z**2).sum(), (hidden, weight, bias))

    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        half = gradients()
    for got, want in zip(half, exact, strict=True):
        assert got.dtype == want.dtype == torch.float32
        assert 0 < (got - want).norm() / want.norm() < 0.02


def test_excluded_token_has_no_probability() -> None:
    hidden, weight, _, _ = example()
    assert linear_logits(hidden, weight, 3).softmax(-1)[:, 3].eq(0).all()


def test_no_rows_give_zero_gradients() -> None:
    hidden, weight, targets, _ = example()
    nll, log_z = linear_cross_entropy(hidden[:0], weight, targets[:0])
    assert nll.shape == log_z.shape == (0,)
    (nll.sum() + log_z.sum()).backward()
    assert weight.grad is not None
    assert weight.grad.eq(0).all()
