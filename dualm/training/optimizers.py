"""Optimizers by name, as DeepSpeed client optimizers that are right at every ZeRO stage.

A builder gets the named parameters and returns a torch optimizer whose groups carry `lr_scale`, the
group's learning rate as a multiple of the schedule's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dualm.config import OptimizerConfig
from dualm.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

NamedParameters: TypeAlias = "Iterable[tuple[str, nn.Parameter]]"


def gradient_norm(parameters: Iterable[torch.Tensor], partitioned: bool) -> torch.Tensor:
    """The 2-norm of the gradients, over all ranks where each holds only a part of them."""
    import torch

    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if partitioned:
        torch.distributed.all_reduce(norm.square_())
        norm.sqrt_()
    return norm


def clip_by_norm(parameters: Iterable[torch.Tensor], norm: torch.Tensor, limit: float) -> None:
    """Scale the gradients down to norm `limit`; 0 means no limit."""
    if limit > 0:
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def decay_groups(named: NamedParameters, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Matrices decay (Loshchilov & Hutter 2019, decoupled weight decay); gains and biases if asked to."""
    split: dict[bool, list[nn.Parameter]] = defaultdict(list)
    for _, parameter in named:
        split[parameter.ndim >= 2 or config.decay_gains].append(parameter)
    common = {"lr": config.lr, "lr_scale": 1.0}
    return [
        {"params": parameters, "decays": decays, "weight_decay": config.weight_decay * decays, **common}
        for decays, parameters in split.items()
    ]


def clipping(kind: type[Any]) -> type[Any]:
    """The optimizer class, which also clips by its `clip` and skips non-finite gradients: for ZeRO stage 0.

    Stages 1-3 do both inside DeepSpeed. At stage 0 nobody does, so this class follows the protocol of
    DeepSpeed's own optimizers: `overflow` says that the step was not taken, `_global_grad_norm` is logged.
    """
    import torch

    class Clipping(kind):  # type: ignore[misc, valid-type]
        clip, overflow, _global_grad_norm = 0.0, False, 0.0

        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            norm = gradient_norm(parameters, partitioned=False)
            clip_by_norm(parameters, norm, self.clip)
            self._global_grad_norm = norm.item()  # DeepSpeed reads the norm every step at the other stages, too
            self.overflow = not math.isfinite(self._global_grad_norm)
            if not self.overflow:
                super().step()

    return Clipping


def at_stage(
    kind: type[Any], groups: list[dict[str, Any]], config: OptimizerConfig, zero_stage: int
) -> torch.optim.Optimizer:
    """A torch optimizer of any class over `groups`, clipping by itself where ZeRO does not."""
    if zero_stage > 0:
        return kind(groups)
    optimizer: Any = clipping(kind)(groups)
    optimizer.clip = config.clip
    return optimizer


def adamw(named: NamedParameters, config: OptimizerConfig, zero_stage: int) -> torch.optim.Optimizer:
    import torch

    adam = {"betas": tuple(config.betas), "eps": config.eps, "fused": True}
    groups = [group | adam for group in decay_groups(named, config)]
    return at_stage(torch.optim.AdamW, groups, config, zero_stage)


def update_scale(rows: int, columns: int) -> float:
    """0.2 * sqrt(max(fan_in, fan_out)): gives an orthogonal update the root mean square of an Adam step (0.2).

    Source: Liu et al. 2025 (Muon is scalable for LLM training), section 2.2.
    """
    return 0.2 * math.sqrt(max(rows, columns))


def is_hidden_matrix(name: str, ndim: int) -> bool:
    """Whether it maps hidden states to hidden states: the matrices of the blocks, and of a head of two the first."""
    return ndim == 2 and ("layers." in name or name.endswith("lm_head.dense.weight"))


def muon_groups(named: NamedParameters, config: OptimizerConfig) -> list[dict[str, Any]]:
    """One group per shape of hidden matrix; embedding, the rows of the vocabulary in the head, gains and biases go to AdamW.

    DeepSpeed's Muon multiplies the orthogonal update by sqrt(max(1, rows/columns)); `lr_scale` replaces that
    factor by `update_scale`, and the decay is divided by it, so that lr * decay means what it means in AdamW.
    """
    by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    rest = []
    for name, parameter in named:
        parameter.use_muon = is_hidden_matrix(name, parameter.ndim)  # type: ignore[attr-defined]
        if parameter.use_muon:  # type: ignore[attr-defined]
            by_shape[parameter.shape].append(parameter)
        else:
            rest.append((name, parameter))
    adam = {"betas": tuple(config.betas), "eps": config.eps, "use_muon": False}
    groups: list[dict[str, Any]] = [group | adam for group in decay_groups(rest, config)]
    for (rows, columns), parameters in by_shape.items():
        scale = update_scale(rows, columns) / math.sqrt(max(1.0, rows / columns))
        groups.append(
            {
                "params": parameters,
                "use_muon": True,
                "ns_method": "standard",  # the Newton-Schulz iteration with one dtype on CPU and GPU
                "lr": config.lr * scale,
                "lr_scale": scale,
                "momentum": config.momentum,
                "weight_decay": config.weight_decay / scale,
            }
        )
    return groups


def muon(named: NamedParameters, config: OptimizerConfig, zero_stage: int) -> torch.optim.Optimizer:
    """Muon for the hidden matrices, AdamW for the rest (Jordan et al. 2024)."""
    import torch
    from deepspeed.runtime.zero.muon import original_muon
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    if not torch.cuda.is_available():  # CPUs say they support bfloat16, but most emulate it
        original_muon.ns_compute_dtype = lambda ns_method="standard": torch.float32

    class MuonClippingAdam(MuonWithAuxAdam):
        """Clips the AdamW half only, each of its groups to `clip`.

        ZeRO would clip Muon's *update*, after it was made orthogonal, and so shrink it; the update needs no
        clipping, since its size does not depend on the gradient's. For the same reason DeepSpeed's gradient
        norm is not one here: `logged_norm`, of the embedding and the head, takes its place.
        """

        overflow = False
        logged_norm: torch.Tensor | float = 0.0

        @torch.no_grad()
        def step(self, closure=None, step_id=None):  # type: ignore[no-untyped-def]
            if zero_stage == 0 and not self._finite():
                return
            for group in self.param_groups:
                if not group["use_muon"] and group["params"]:
                    norm = gradient_norm(group["params"], partitioned=zero_stage > 0)
                    clip_by_norm(group["params"], norm, config.clip)
                    self.logged_norm = norm if group["decays"] else self.logged_norm
            super().step()

        def _finite(self) -> bool:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            self.overflow = not math.isfinite(gradient_norm(parameters, partitioned=False).item())
            return not self.overflow

    return MuonClippingAdam(muon_groups(named, config))


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer, and what engine and cost must know of it."""

    build: Callable[[NamedParameters, OptimizerConfig, int], torch.optim.Optimizer]  # int: the ZeRO stage
    state_bytes: Callable[[Mapping[str, Sequence[int]]], int]  # of its state for parameters of these shapes
    clips: bool = False  # clips gradients itself at every ZeRO stage
    reduce_scatter: bool = True  # whether ZeRO may reduce a part of a gradient on each rank


def adamw_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """Two moments in float32."""
    return 8 * sum(map(math.prod, shapes.values()))


def muon_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """One momentum in float32 for the hidden matrices, two moments for the rest."""
    return adamw_bytes(shapes) - sum(
        4 * math.prod(one) for name, one in shapes.items() if is_hidden_matrix(name, len(one))
    )


OPTIMIZERS = Registry(
    "optimizer.name",
    {
        "adamw": OptimizerEntry(adamw, adamw_bytes),
        "muon": OptimizerEntry(muon, muon_bytes, clips=True, reduce_scatter=False),
    },
)


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]
