"""Every attention backend × every mask it claims × every dtype, forward and backward, against float64 on the CPU.

Errors are ||out - ref|| / ||ref||, over the whole tensor and at the worst position (so that a border that is off by
one doesn't drown). Also, a changed key must change exactly the outputs that see it, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from benchmarks.gpu.harness import Cases, Failed, Numbers, Settings, relative, within
from dualm.model.attention import CAPABILITIES, AttentionMask, Kind, load

TOLERANCES = {  # forward, gradients; one position may be WORST times as far off
    torch.float32: (1e-3, 2e-3),
    torch.float16: (2e-3, 4e-3),
    torch.bfloat16: (1e-2, 2e-2),
}
WORST = 6

Attend = Callable[[Tensor, Tensor, Tensor, AttentionMask], Tensor]


class Shape(NamedTuple):
    batch: int
    length: int
    heads: int
    kv_heads: int
    head_dim: int


SHAPES = [Shape(3, 384, 4, 4, 64), Shape(2, 457, 8, 2, 128)]  # the second: grouped queries, no round length
DRY_SHAPES = [Shape(3, 96, 2, 2, 16), Shape(2, 77, 4, 2, 32)]


def check(cases: Cases, backend: str) -> None:
    """All cases of one backend."""
    can, settings = CAPABILITIES[backend], cases.settings
    if not runnable(cases, [backend]):
        return
    masks = cast(list[tuple[Kind, bool]], sorted(can.masks))
    shapes = SHAPES if settings.on_gpu else DRY_SHAPES
    dtypes = [dtype for dtype in TOLERANCES if can.computes(dtype)]
    dtypes = [dtype for dtype in dtypes if not (settings.quick and dtype == torch.float16)]
    for dtype in dtypes:
        for shape in shapes[:1] if settings.quick else shapes:
            for kind, documents in masks:
                name = f"{backend} {kind}{'+documents' if documents else ''} {_word(dtype)} {'x'.join(map(str, shape))}"
                cases.run(name, partial(agrees, backend, kind, documents, dtype, shape, settings, name))
    for kind, documents in masks:
        name = f"{backend} {kind}{'+documents' if documents else ''} who sees whom"
        cases.run(name, partial(sees, backend, kind, documents, dtypes[-1], shapes[0], settings, name))


def agrees(
    backend: str, kind: Kind, documents: bool, dtype: torch.dtype, shape: Shape, settings: Settings, name: str
) -> Numbers:
    """Output and the three gradients against `reference`."""
    generator = settings.generator(name)
    mask = random_mask(kind, documents, shape, generator)
    values = random_inputs(shape, dtype, generator)
    upstream = torch.randn(values[0].shape, generator=generator).to(dtype)
    exact = with_gradients(reference, values, upstream, mask, torch.device("cpu"), torch.float64)
    poison(settings.device)
    got = with_gradients(by(backend), values, upstream, mask, settings.device, dtype)
    forward, backward = TOLERANCES[dtype]
    errors, tolerances = {}, {}
    for part, out, ref in zip(("out", "dq", "dk", "dv"), got, exact, strict=True):
        tolerance = forward if part == "out" else backward
        errors |= {part: relative(out, ref), f"{part}_worst": worst_position(out, ref)}
        tolerances |= {part: tolerance, f"{part}_worst": WORST * tolerance}
    return within(errors, tolerances)


def sees(
    backend: str, kind: Kind, documents: bool, dtype: torch.dtype, shape: Shape, settings: Settings, name: str
) -> Numbers:
    """Change one key and value at a time; compare which outputs change with the mask's definition."""
    generator = settings.generator(name)
    mask = random_mask(kind, documents, shape, generator)
    visible = mask.dense(shape.batch, shape.length, "cpu").expand(shape.batch, 1, -1, -1)[:, 0]
    q, k, v = (x.to(settings.device) for x in random_inputs(shape, dtype, generator))
    before = by(backend)(q, k, v, mask)
    leaks = misses = 0
    for j in (0, 1, shape.length // 3, shape.length // 2, shape.length - 1):
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, j] += 1
        other_v[:, :, j] += 4
        changed = (by(backend)(q, other_k, other_v, mask) != before).any(-1).any(1).cpu()
        leaks += int((changed & ~visible[:, :, j]).sum())
        misses += int((~changed & visible[:, :, j]).sum())
    numbers = {"leaks": leaks, "misses": misses}
    if leaks or misses:
        raise Failed("outputs changed where they don't see the key, or did not where they do", numbers)
    return numbers


def runnable(cases: Cases, backends: Iterable[str]) -> list[str]:
    """Those of the backends that can run here; each of the others is recorded as one skipped case."""
    able = []
    for backend in backends:
        device, devices = cases.settings.device.type, CAPABILITIES[backend].devices
        reason = f"{backend} does not run on {device}" if devices and device not in devices else None
        missing = load(backend).missing()
        reason = reason or (f"{backend} needs {missing}" if missing else None)
        if reason:
            cases.skip(backend, reason)
        else:
            able.append(backend)
    return able


def random_mask(kind: Kind, documents: bool, shape: Shape, generator: torch.Generator) -> AttentionMask:
    """Borders (about five a row) and prefixes anywhere."""
    borders = torch.rand(shape.batch, shape.length, generator=generator) < 5 / shape.length
    prefix = torch.randint(1, shape.length, (shape.batch,), generator=generator)
    return AttentionMask(kind, borders.cumsum(1) if documents else None, prefix if kind == "prefix" else None)


def random_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    batch, length, heads, kv_heads, width = shape
    sizes = [(batch, count, length, width) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


def reference(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Softmax attention as one would write it on paper."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    visible = mask.dense(q.shape[0], q.shape[2], q.device)
    return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v


def by(backend: str) -> Attend:
    """The backend as a function of (q, k, v, mask)."""
    kernel = load(backend)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        return kernel.attend(q, k, v, kernel.lower(mask, q.shape[0], q.shape[2], q.device))

    return attend


def with_gradients(
    attend: Attend,
    values: Sequence[Tensor],
    upstream: Tensor,
    mask: AttentionMask,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Tensor]:
    """[output, dq, dk, dv] computed on `device` in `dtype`."""
    leaves = [x.to(device, dtype).requires_grad_() for x in values]
    q, k, v = leaves
    out = attend(q, k, v, mask)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(device, dtype))]


def worst_position(out: Tensor, ref: Tensor) -> float:
    """The largest error of one (row, position), relative to the typical norm of a position."""
    out, ref = (x.detach().cpu().double().transpose(1, 2).flatten(2) for x in (out, ref))
    if not bool(out.isfinite().all()):
        return float("inf")
    return float((out - ref).norm(dim=-1).max() / ref.norm(dim=-1).square().mean().sqrt())


def poison(device: torch.device) -> None:
    """Leave NaN in the memory that the next allocations will get: an element nobody writes then shows."""
    if device.type == "cuda":
        sizes = [2**26] + 64 * [2**17]  # the allocator keeps large and small blocks apart
        blocks = [torch.full((size,), float("nan"), device=device) for size in sizes]
        del blocks


def _word(dtype: torch.dtype) -> str:
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[str(dtype).removeprefix("torch.")]
