"""Learning rates at the ends and corners of each schedule."""

from __future__ import annotations

import itertools

import pytest

from dualm.config import Recipe, ScheduleConfig, TrainConfig
from dualm.errors import UserError
from dualm.training.checkpoints import is_due, is_special
from dualm.training.schedules import cooldown_start, learning_rate


def rates(steps: int = 100, **keys: float | str) -> list[float]:
    config = ScheduleConfig(**keys)  # type: ignore[arg-type]
    return [learning_rate(step, steps, 2.0, config) for step in range(steps)]


def test_trapezoid() -> None:
    lr = rates(name="trapezoid", warmup=0.1, cooldown=20, final=0.1)
    assert lr[0] == pytest.approx(0.2)
    assert lr[9:80] == [2.0] * 71
    assert lr[90] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert lr[99] == pytest.approx(2 * (0.1 + 0.9 * 0.05))


def test_cosine() -> None:
    lr = rates(name="cosine", warmup=10, final=0.1)
    assert lr[10] == pytest.approx(2.0)
    assert lr[55] == pytest.approx(2 * 0.55)
    assert lr[99] == pytest.approx(0.2, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(lr[10:]))


def test_a_warmup_has_its_least_steps() -> None:
    few = rates(steps=100, name="cosine", warmup=0.1, warmup_min=40)
    assert few[19] == pytest.approx(1.0)
    assert few[39] == few[40] == pytest.approx(2.0)
    assert few[70] == pytest.approx(1.0)  # half of the cosine, which begins where the warmup ends
    many = rates(steps=1000, name="cosine", warmup=0.1, warmup_min=40)
    assert many[99] == pytest.approx(2.0)  # a tenth of the steps is more


def test_constant() -> None:
    assert rates(name="constant", warmup=0) == [2.0] * 100


def test_unknown() -> None:
    with pytest.raises(UserError, match=r"schedule\.name: got 'zigzag'"):
        rates(name="zigzag")


def test_special_checkpoints() -> None:
    recipe = Recipe(schedule=ScheduleConfig(cooldown=0.3), train=TrainConfig(steps=100))
    recipe.checkpoint.every, recipe.checkpoint.exponential = 25, True
    assert cooldown_start(recipe.schedule, 100) == 70
    assert [step for step in range(1, 101) if is_special(step, recipe, 100)] == [1, 2, 4, 8, 16, 32, 64, 70, 100]
    assert [step for step in range(1, 101) if is_due(step, recipe, 100) and not is_special(step, recipe, 100)] == [
        25,
        50,
        75,
    ]
