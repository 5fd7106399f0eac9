"""Who sees whom, and which kernel computes it.

`AttentionMask` says what is visible; its `dense` is the definition that every backend must agree with.
`CAPABILITIES` says which backend does which mask; `choose` picks one. A backend is a file
`dualm/model/backends/<name>.py` with the functions of the protocol `Backend`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from dualm.errors import UserError
from dualm.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["causal", "bidirectional", "prefix"]

# May query position q see key position k? `p` is the prefix length (unused by the other kinds).
# A prefix needs no condition on q: from q >= p on, every k < p lies in the past anyway.
VISIBLE: dict[Kind, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "causal": lambda q, k, p: k <= q,
    "bidirectional": lambda q, k, p: (k <= q) | (k > q),
    "prefix": lambda q, k, p: (k <= q) | (k < p),
}


@dataclass(frozen=True)
class AttentionMask:
    """Which positions of a batch see each other.

    kind: `causal` (no later position), `bidirectional` (all), `prefix` (the first `prefix[b]` positions of row b see
        each other both ways, the rest is causal).
    document_ids: integers `[batch, length]`; positions see only equal ids, in every kind. A document is one
        contiguous run of its id. None: no borders.
    prefix: integers `[batch]`, given exactly when the kind is `prefix`.

    The tensors may stay on the host: every backend moves what it needs, and `flash` and `xformers`, which need the
    lengths of the documents as numbers, then don't wait for the device.
    """

    kind: Kind
    document_ids: Tensor | None = None
    prefix: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.kind in VISIBLE, self.kind
        assert (self.prefix is not None) == (self.kind == "prefix"), "prefix belongs to the kind 'prefix'"

    def dense(self, batch: int, length: int, device: torch.device | str) -> Tensor:
        """True where query (second last axis) sees key (last axis).

        Returns:
            bool `[batch, 1, length, length]`, or `[1, 1, length, length]` where all rows have the same.
        """
        import torch

        mask = self.to(device)
        position = torch.arange(length, device=device)
        prefix = None if mask.prefix is None else mask.prefix.view(batch, 1, 1, 1)
        visible = VISIBLE[self.kind](position.view(1, 1, length, 1), position.view(1, 1, 1, length), prefix)
        if mask.document_ids is not None:
            ids = mask.document_ids.view(batch, 1, length)
            visible = visible & (ids[..., :, None] == ids[..., None, :])
        return visible

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AttentionMask:
        """The same mask with its tensors on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(self, document_ids=move(self.document_ids), prefix=move(self.prefix))


class Backend(Protocol):
    """What a file in `dualm/model/backends` provides."""

    def missing(self) -> str | None:
        """What this machine lacks to run it, in words; None when it can run."""
        ...

    def lower(self, mask: AttentionMask, batch: int, length: int, device: torch.device) -> Any:
        """The mask in the kernel's own terms. Once per forward pass."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, lowered: Any) -> Tensor:
        """Softmax attention, once per layer.

        Shapes: q and the result `[batch, heads, length, head_dim]`, k and v `[batch, kv_heads, length, head_dim]`.
        """
        ...


EVERY_MASK = frozenset(product(VISIBLE, (False, True)))  # (kind, has documents)
NO_PREFIX = frozenset((kind, documents) for kind, documents in EVERY_MASK if kind != "prefix")
HALF = frozenset(("bfloat16", "float16"))


@dataclass(frozen=True)
class Capability:
    rank: int  # `auto` takes the backend of the lowest rank that covers the mask and is there
    masks: frozenset[tuple[str, bool]] = EVERY_MASK
    devices: frozenset[str] | None = None  # None: every device
    dtypes: frozenset[str] | None = None  # None: every dtype

    def computes(self, dtype: torch.dtype) -> bool:
        return self.dtypes is None or dtype_name(dtype) in self.dtypes

    def covers(self, mask: AttentionMask, device: torch.device, dtype: torch.dtype) -> bool:
        return (
            (mask.kind, mask.document_ids is not None) in self.masks
            and (self.devices is None or device.type in self.devices)
            and self.computes(dtype)
        )


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16`."""
    return str(dtype).removeprefix("torch.")


CAPABILITIES: dict[str, Capability] = {
    "flash": Capability(0, devices=frozenset({"cuda"}), dtypes=HALF),
    "flex": Capability(1, devices=frozenset({"cuda"})),
    "xformers": Capability(2, masks=NO_PREFIX, devices=frozenset({"cuda"})),
    "sdpa": Capability(3),
}
BACKENDS = Registry("model.attention", {"auto": None, **CAPABILITIES})


def load(name: str) -> Backend:
    """The backend of that name (a key of `CAPABILITIES`)."""
    return cast(Backend, importlib.import_module(f"dualm.model.backends.{name}"))


def choose(name: str, mask: AttentionMask, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend `name`, or with `auto` the fastest, for this mask on this device in this dtype.

    Raises:
        UserError: the backend can't do it or isn't installed; the message names those that can.
    """
    BACKENDS.choose(name)
    if name != "auto" and CAPABILITIES[name].covers(mask, device, dtype) and load(name).missing() is None:
        return load(name)
    ranked = sorted(CAPABILITIES.items(), key=lambda item: item[1].rank)
    able = [other for other, can in ranked if can.covers(mask, device, dtype)]
    able = [other for other in able if load(other).missing() is None]
    if name == "auto":
        return load(able[0])  # there is always sdpa
    wanted = f"{mask.kind} attention {'with' if mask.document_ids is not None else 'without'} documents"
    case = f"{wanted} on {device.type} in {dtype_name(dtype)}"
    reason = f"needs {load(name).missing()}" if CAPABILITIES[name].covers(mask, device, dtype) else f"can't do {case}"
    raise UserError(f"model.attention: {name} {reason}; these can: {', '.join(able)}")
