"""Objectives by name.

A new one is a function (window, u, rng, given) -> Example, made by a builder, and one line in OBJECTIVES. A recipe names it
as `objective.ar` or `objective.md`, the objective of its half of the ratio alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from dualm.config import ObjectiveConfig
from dualm.errors import UserError
from dualm.objectives.autoregressive import (
    autoregressive,
    masked_input,
    masked_input_regularization,
    prefix_autoregressive,
)
from dualm.objectives.example import Objective
from dualm.objectives.masked_diffusion import MaskedDiffusion
from dualm.objectives.time import Density
from dualm.registry import Registry

Half = Literal["ar", "md"]
HALVES: tuple[Half, ...] = get_args(Half)


def unweighted(config: ObjectiveConfig) -> float:
    return 1.0


def ar_weight(config: ObjectiveConfig) -> float:
    return config.ar_weight


@dataclass(frozen=True)
class ObjectiveEntry:
    """What mixture, loop, cost, metrics and results must know of an objective."""

    half: Half  # of the ratio alpha: `ar` objectives share alpha of the windows, `md` ones the rest
    build: Callable[[ObjectiveConfig, Density], Objective]  # Density: that of the mask rate t
    metric: str  # its mean loss is reported as train/<metric>
    weight: Callable[[ObjectiveConfig], float] = unweighted  # of its loss
    share: Callable[[ObjectiveConfig], float] | None = None  # of its half; None: what the others leave, if it is named
    sequences: int = 1  # that it makes of a window, each read by the network


OBJECTIVES = Registry(
    "objective",
    {
        "autoregressive": ObjectiveEntry("ar", lambda config, time: autoregressive, "ar_loss", ar_weight),
        "masked_input": ObjectiveEntry(
            "ar", lambda config, time: masked_input(config.input_mask), "ar_loss", ar_weight
        ),
        "mir": ObjectiveEntry(
            "ar",
            lambda config, time: masked_input_regularization(config.mir_weight, *config.mir_rates),
            "mir_loss",
            ar_weight,
            sequences=2,
        ),
        "prefix": ObjectiveEntry(
            "ar",
            lambda config, time: prefix_autoregressive,
            "prefix_loss",
            ar_weight,
            lambda config: config.prefix_fraction,
        ),
        "masked_diffusion": ObjectiveEntry("md", MaskedDiffusion.of, "md_loss"),
    },
)


def choices(half: Half) -> list[str]:
    """The objectives that `objective.<half>` may name."""
    return [name for name, entry in OBJECTIVES.items() if entry.half == half and entry.share is None]


def main_objective(config: ObjectiveConfig, half: Half) -> str:
    """The objective that `objective.<half>` names. Raises UserError with the choices."""
    name: str = getattr(config, half)
    if name not in choices(half):
        raise UserError(f"objective.{half}: got {name!r}, expected {' or '.join(choices(half))}")
    return name


def train_metrics() -> list[str]:
    """The metrics of all objectives, `train/...`, each once."""
    return list(dict.fromkeys(f"train/{entry.metric}" for entry in OBJECTIVES.values()))
