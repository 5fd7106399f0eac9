"""The precision that a model computes in; its weights are float32 in any case."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualm.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Precision:
    dtype: str  # its name in torch
    itemsize: int  # bytes of a number


PRECISIONS = Registry("train.precision", {"fp32": Precision("float32", 4), "bf16": Precision("bfloat16", 2)})


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Within, matrix products are computed in `precision`, one of PRECISIONS."""
    import torch

    dtype = getattr(torch, PRECISIONS[precision].dtype)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def emulated(precision: str, device: torch.device) -> str | None:
    """Why computing in `precision` is slow on this device, in words; None where it is not."""
    import torch

    half = PRECISIONS[precision].dtype == "bfloat16"
    if not half or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return (
        "this CPU has no bf16 instructions, so bf16 is emulated, up to a hundred times slower than fp32; expected fp32"
    )
