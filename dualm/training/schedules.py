"""Learning-rate schedules: the fraction of the peak at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dualm.config import ScheduleConfig
from dualm.registry import Registry


@dataclass(frozen=True)
class Schedule:
    fraction: Callable[[int, int, ScheduleConfig], float]  # (step, steps, config) -> fraction of the peak
    cooldown_start: Callable[[int, ScheduleConfig], int] | None = (
        None  # (steps, config) -> first step; None: no cooldown
    )


def in_steps(length: float, steps: int) -> int:
    """A stretch of training: below 1 a fraction of all steps, otherwise steps."""
    return round(length * steps) if length < 1 else int(length)


def warmup_steps(config: ScheduleConfig, steps: int) -> int:
    """The steps over which the learning rate rises to its peak."""
    return max(config.warmup_min, in_steps(config.warmup, steps))


def trapezoid_cooldown(steps: int, config: ScheduleConfig) -> int:
    """The first step of the trapezoid's cooldown."""
    return steps - in_steps(config.cooldown, steps)


def trapezoid(step: int, steps: int, config: ScheduleConfig) -> float:
    """Warmup-stable-decay: flat, then a straight line down to `final` over the cooldown."""
    left = (steps - step) / max(1, in_steps(config.cooldown, steps))
    return config.final + (1 - config.final) * min(1.0, left)


def cosine(step: int, steps: int, config: ScheduleConfig) -> float:
    """Half a cosine from the end of the warmup down to `final`."""
    warmup = warmup_steps(config, steps)
    progress = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2


def constant(step: int, steps: int, config: ScheduleConfig) -> float:
    return 1.0


SCHEDULES = Registry(
    "schedule.name",
    {
        "trapezoid": Schedule(trapezoid, trapezoid_cooldown),
        "cosine": Schedule(cosine),
        "constant": Schedule(constant),
    },
)


def cooldown_start(config: ScheduleConfig, steps: int) -> int | None:
    """The first step of the cooldown; None if the schedule has none."""
    start = SCHEDULES.choose(config.name).cooldown_start
    return start and start(steps, config)


def learning_rate(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """The learning rate of update number `step`, counted from 0; every schedule warms up in a straight line."""
    warmup = min(1.0, (step + 1) / max(1, warmup_steps(config, steps)))
    return peak * warmup * SCHEDULES.choose(config.name).fraction(step, steps, config)
