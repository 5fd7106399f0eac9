"""The precision that a model computes in; its weights are float32 in any case."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from dualm.registry import Registry

PRECISIONS: Registry[torch.dtype] = Registry("train.precision", {"fp32": torch.float32, "bf16": torch.bfloat16})


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Within, matrix products are computed in `precision`, one of PRECISIONS."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def emulated(precision: str, device: torch.device) -> str | None:
    """Why computing in `precision` is slow on this device, in words; None where it is not."""
    if PRECISIONS[precision] != torch.bfloat16 or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return (
        "this CPU has no bf16 instructions, so bf16 is emulated, up to a hundred times slower than fp32; expected fp32"
    )
