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
