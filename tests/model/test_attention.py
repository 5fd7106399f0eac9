"""Promise 1 of the design: who sees whom, for every backend and every mask it claims."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dualm.errors import UserError
from dualm.model import packing
from dualm.model.attention import CAPABILITIES, VISIBLE, AttentionMask, choose, load
from dualm.model.backends import flash, flex

BATCH, LENGTH, HEADS, WIDTH = 3, 40, 4, 32
CPU = torch.device("cpu")
CASES = [(name, kind, documents) for name, can in CAPABILITIES.items() for kind, documents in sorted(can.masks)]


def make_mask(kind: str, documents: bool, batch: int = BATCH, length: int = LENGTH) -> AttentionMask:
    """Borders and prefixes that differ between the rows."""
    position, row = torch.arange(length), torch.arange(batch)[:, None]
    ids = (position >= length // 4 + row).int() + (position >= length // 2 + 2 * row).int() if documents else None
    prefix = (torch.arange(batch) * length) // batch + 2 if kind == "prefix" else None
    return AttentionMask(kind, ids, prefix)  # pyright: ignore[reportArgumentType]


def device_of(name: str) -> torch.device:
    """Where a backend is tested; skips where it can't run."""
    devices = CAPABILITIES[name].devices
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if devices and device.type not in devices:
        pytest.skip(f"{name} needs {' or '.join(devices)}")
    if reason := load(name).missing():
        pytest.skip(f"{name} needs {reason}")
    return device


def inputs(device: torch.device, kv_heads: int = HEADS) -> list[Tensor]:
    """q, k, v; in bf16 on an accelerator, which is all that flash takes."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    shapes = [(BATCH, heads, LENGTH, WIDTH) for heads in (HEADS, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def naive(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Softmax attention as one would write it on paper, in float32."""
    q, k, v = q.float(), k.float(), v.float()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    visible = mask.dense(q.shape[0], q.shape[2], q.device)
    return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v


def attend(name: str, mask: AttentionMask, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    backend = load(name)
    return backend.attend(q, k, v, backend.lower(mask, q.shape[0], q.shape[2], q.device))


def assert_near(got: Tensor, want: Tensor) -> None:
    tolerance = 2e-5 if got.device.type == "cpu" else 3e-2  # float32, bf16
    torch.testing.assert_close(got.float(), want.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize(("name", "kind", "documents"), CASES)
def test_backend_agrees_with_naive_attention_and_sdpa(name: str, kind: str, documents: bool, kv_heads: int) -> None:
    device, mask = device_of(name), make_mask(kind, documents)
    qkv = inputs(device, kv_heads)
    wanted = naive(*qkv, mask)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(device)
    gradients = torch.autograd.grad((wanted * upstream).sum(), qkv)
    for other in (name, "sdpa"):
        out = attend(other, mask, *qkv)
        assert_near(out, wanted)
        for got, want in zip(torch.autograd.grad((out.float() * upstream).sum(), qkv), gradients, strict=True):
            assert_near(got, want)


@pytest.mark.parametrize(("name", "kind", "documents"), CASES)
def test_a_changed_key_changes_exactly_the_outputs_that_see_it(name: str, kind: str, documents: bool) -> None:
    device, mask = device_of(name), make_mask(kind, documents)
    visible = mask.dense(BATCH, LENGTH, CPU).expand(BATCH, 1, LENGTH, LENGTH)[:, 0]
    with torch.no_grad():
        q, k, v = inputs(device)
        before = attend(name, mask, q, k, v)
        for j in (0, 1, LENGTH // 3, LENGTH // 2, LENGTH - 1):
            k[:, :, j] += 1
            v[:, :, j] += 4
            changed = (attend(name, mask, q, k, v) != before).any(-1).any(1).cpu()
            k, v = inputs(device)[1:]
            assert torch.equal(changed, visible[:, :, j])


@st.composite
def masks(draw: st.DrawFn) -> tuple[AttentionMask, int, int]:
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(list(VISIBLE)))
    borders = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=batch, max_size=batch))
    ids = torch.tensor(borders).cumsum(1) if draw(st.booleans()) else None
    lengths = st.lists(st.integers(0, length), min_size=batch, max_size=batch)
    return AttentionMask(kind, ids, torch.tensor(draw(lengths)) if kind == "prefix" else None), batch, length


def sees(mask: AttentionMask, b: int, i: int, j: int) -> bool:
    """The words of the design, element by element."""
    if mask.document_ids is not None and mask.document_ids[b, i] != mask.document_ids[b, j]:
        return False
    if mask.kind == "bidirectional" or j <= i:
        return True
    return mask.prefix is not None and max(i, j) < int(mask.prefix[b])


@settings(max_examples=60, deadline=None)
@given(masks())
def test_dense_is_the_definition(drawn: tuple[AttentionMask, int, int]) -> None:
    mask, batch, length = drawn
    dense = mask.dense(batch, length, CPU)
    assert dense.shape[0] == (1 if mask.document_ids is None and mask.prefix is None else batch)
    wanted = [[[sees(mask, b, i, j) for j in range(length)] for i in range(length)] for b in range(batch)]
    assert torch.equal(dense.expand(batch, 1, length, length)[:, 0], torch.tensor(wanted))


@settings(max_examples=40, deadline=None)
@given(masks())
def test_flex_visibility_is_dense(drawn: tuple[AttentionMask, int, int]) -> None:
    mask, batch, length = drawn
    grid = torch.meshgrid(torch.arange(batch), torch.arange(length), torch.arange(length), indexing="ij")
    got = flex.visibility(mask, batch, length, CPU)(grid[0], torch.tensor(0), grid[1], grid[2])
    assert torch.equal(got, mask.dense(batch, length, CPU).expand(batch, 1, length, length)[:, 0])


@settings(max_examples=40, deadline=None)
@given(masks())
def test_packed_runs_are_the_documents(drawn: tuple[AttentionMask, int, int]) -> None:
    mask, batch, length = drawn
    starts = packing.starts(mask, batch, length)
    run = torch.bucketize(torch.arange(batch * length), starts, right=True).view(batch, 1, length)
    same = AttentionMask("bidirectional", mask.document_ids).dense(batch, length, CPU)
    assert torch.equal((run[..., :, None] == run[..., None, :]), same.expand(batch, 1, length, length))
    flat = run.flatten()
    assert all(len(flat[flat == other].unique()) == 1 for other in flat)
    assert run[1:, 0, 0].ne(run[:-1, 0, -1]).all()  # a run never crosses rows


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize(("kind", "documents"), sorted(CAPABILITIES["flash"].masks))
def test_flash_packs_and_unpacks(kind: str, documents: bool, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel's contract played by a loop over the runs, on any machine."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, causal: bool) -> Tensor:
        mask = AttentionMask("causal" if causal else "bidirectional")
        runs = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        pieces = [[x[a:b].transpose(0, 1)[None] for x in (q, k, v)] for a, b in runs]
        assert max(piece[0].shape[2] for piece in pieces) <= longest
        return torch.cat([naive(*piece, mask)[0].transpose(0, 1) for piece in pieces])

    monkeypatch.setattr(flash, "kernel", lambda: kernel)
    mask, qkv = make_mask(kind, documents), inputs(CPU, kv_heads)
    assert_near(attend("flash", mask, *qkv), naive(*qkv, mask))


@settings(max_examples=60, deadline=None)
@given(masks())
def test_two_calls_make_a_prefix_mask(drawn: tuple[AttentionMask, int, int]) -> None:
    """Who sees whom in flash's two calls: causal runs, but for the prefixes' positions, which see their part of a run both ways."""
    mask, batch, length = drawn
    if mask.prefix is None:
        return
    size = batch * length
    run = torch.bucketize(torch.arange(size), packing.starts(mask, batch, length), right=True)
    visible = (run[:, None] == run) & (torch.arange(size)[:, None] >= torch.arange(size))
    places, inner = packing.within_prefix(mask, batch, length)
    part = torch.bucketize(torch.arange(len(places)), inner, right=True)
    visible[places] = False
    visible[places[:, None], places] = part[:, None] == part
    wanted = torch.block_diag(*mask.dense(batch, length, CPU)[:, 0].int()).bool()
    assert torch.equal(visible, wanted)


@pytest.mark.parametrize(("kind", "documents"), sorted(CAPABILITIES["xformers"].masks))
def test_xformers_bias_is_dense(kind: str, documents: bool) -> None:
    pytest.importorskip("xformers")
    mask = make_mask(kind, documents)
    bias = load("xformers").lower(mask, BATCH, LENGTH, CPU)
    flat = bias.materialize((BATCH * LENGTH, BATCH * LENGTH)) == 0
    dense = mask.dense(BATCH, LENGTH, CPU).expand(BATCH, 1, LENGTH, LENGTH)[:, 0]
    assert torch.equal(flat, torch.block_diag(*dense.int()).bool())


def test_auto_picks_what_the_machine_has() -> None:
    assert choose("auto", make_mask("prefix", True), CPU, torch.bfloat16) is load("sdpa")
    if torch.cuda.is_available() and load("flash").missing() is None:
        cuda = torch.device("cuda")
        assert choose("auto", make_mask("causal", True), cuda, torch.bfloat16) is load("flash")
        assert choose("auto", make_mask("causal", True), cuda, torch.float32) is load("flex")
        assert choose("auto", make_mask("prefix", True), cuda, torch.bfloat16) is load("flex")


@pytest.mark.parametrize("name", ["flash", "flex", "xformers"])
def test_what_a_backend_cannot_do_names_those_that_can(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} can't do prefix attention with documents on cpu.*these can: sdpa"):
        choose(name, make_mask("prefix", True), CPU, torch.float32)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "missing", lambda: "the package triton")
    with pytest.raises(UserError, match=r"flex needs the package triton; these can: .*sdpa"):
        choose("flex", make_mask("prefix", False), torch.device("cuda"), torch.float32)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UserError, match="got 'magic', expected auto or flash or flex"):
        choose("magic", make_mask("causal", False), CPU, torch.float32)
