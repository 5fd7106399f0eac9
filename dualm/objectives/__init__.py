"""Objectives by name. A new one is a function (window, u, rng) -> Example and one line here."""

from __future__ import annotations

from collections.abc import Callable

from dualm.config import ObjectiveConfig
from dualm.errors import choose
from dualm.objectives.autoregressive import autoregressive, prefix_autoregressive
from dualm.objectives.example import Objective
from dualm.objectives.masked_diffusion import MaskedDiffusion
from dualm.objectives.time import TIME_SAMPLERS, TimeSampler

OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "ar": lambda config: autoregressive,
    "prefix": lambda config: prefix_autoregressive,
    "md": lambda config: MaskedDiffusion(time_sampler(config), config.mask_count, config.weighting, config.shifted),
}


def time_sampler(config: ObjectiveConfig) -> TimeSampler:
    return choose(TIME_SAMPLERS, "objective.time", config.time)
