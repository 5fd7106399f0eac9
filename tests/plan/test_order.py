"""Repetition, order and exposure are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualm.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, TrainConfig
from dualm.errors import UserError
from dualm.plan.budget import Budget
from dualm.plan.mixture import Mixture
from dualm.plan.order import Order


def recipe(context: int = 4, batch: int = 8, **keys: int | None) -> Recipe:
    data = DataConfig(tokens=keys.get("tokens"), repetitions=keys.get("repetitions") or 1)
    return Recipe(
        data=data, model=ModelConfig(context=context), train=TrainConfig(steps=keys.get("steps"), global_batch=batch)
    )


def order(seed: int, windows: int, micro_batch: int, alpha: float) -> Order:
    mixture = Mixture.of(np.full(1, alpha), 1, ObjectiveConfig())
    return Order(seed, windows, micro_batch, mixture.is_ar, mixture.ar_before)


@given(st.integers(0, 99), st.integers(1, 60), st.integers(1, 7), st.floats(0, 1), st.integers(1, 12))
@settings(max_examples=200)
def test_every_window_has_its_share_of_ar(seed: int, windows: int, micro: int, alpha: float, repetitions: int) -> None:
    plan = order(seed, windows, micro, alpha)
    exposures = np.zeros(windows, dtype=int)
    for epoch in range(repetitions):
        placed = plan.epoch(epoch)
        assert sorted(placed) == list(range(windows))
        slots = np.arange(epoch * windows, (epoch + 1) * windows)
        exposures[placed[plan.is_ar(slots // micro)]] += 1
    assert exposures.max() - exposures.min() <= 1
    # The mean is alpha * R up to the micro-batch that the last epoch may cut.
    assert np.all(np.abs(exposures - alpha * repetitions) <= 1 + micro / (2 * windows))


@pytest.mark.parametrize(("alpha", "repetitions"), [(0.5, 32), (1 / 8, 128), (63 / 64, 64)])
def test_sixteen_exposures_are_sixteen(alpha: float, repetitions: int) -> None:
    plan = order(0, 64, 8, alpha)
    exposures = np.zeros(64, dtype=int)
    for epoch in range(repetitions):
        slots = np.arange(epoch * 64, (epoch + 1) * 64)
        exposures[plan.epoch(epoch)[plan.is_ar(slots // 8)]] += 1
    assert set(exposures) == {round(alpha * repetitions)}


def test_epochs_differ_and_seeds_differ() -> None:
    plan = order(1, 50, 5, 0.5)
    assert plan.epoch(0).tolist() != plan.epoch(1).tolist()
    assert plan.epoch(0).tolist() != order(2, 50, 5, 0.5).epoch(0).tolist()
    assert plan.epoch(3).tolist() == order(1, 50, 5, 0.5).epoch(3).tolist()


def test_slots_map_through_epochs_in_any_order() -> None:
    plan = order(0, 10, 3, 0.3)
    whole = np.concatenate([plan.epoch(epoch) for epoch in range(4)])
    for start in (35, 0, 17):
        assert plan.windows_at(np.arange(start, start + 5)).tolist() == whole[start : start + 5].tolist()


@given(st.integers(1, 10**6), st.integers(1, 100), st.integers(1, 64), st.integers(1, 32))
def test_the_budget_is_spent_on_nested_subsets(tokens: int, repetitions: int, context: int, batch: int) -> None:
    try:
        twice = Budget.of(recipe(context, batch, tokens=tokens, repetitions=2 * repetitions))
        once = Budget.of(recipe(context, batch, tokens=tokens, repetitions=repetitions))
    except UserError:
        return
    for budget, r in ((once, repetitions), (twice, 2 * repetitions)):
        assert budget.unique_tokens <= tokens // r < budget.unique_tokens + context
        passes = budget.sequences / budget.windows
        assert r - batch / budget.windows < passes <= r
    assert twice.windows <= once.windows


def test_steps_alone_set_the_budget() -> None:
    budget = Budget.of(recipe(context=4, batch=8, steps=10, repetitions=3))
    assert (budget.tokens, budget.windows, budget.steps) == (320, 26, 10)


def test_steps_may_stop_short_of_the_budget_but_not_exceed_it() -> None:
    assert Budget.of(recipe(tokens=3200, steps=10)).windows == 800
    with pytest.raises(UserError, match=r"data\.tokens: got 3200, expected at least .* 3232"):
        Budget.of(recipe(tokens=3200, steps=101))


def test_more_repetitions_than_windows_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.repetitions: got 11, expected at most 10"):
        Budget.of(recipe(tokens=40, steps=1, repetitions=11))


@given(st.integers(1, 10**6), st.integers(1, 100), st.integers(1, 64), st.integers(1, 10**4))
def test_a_corpus_too_small_is_refused_with_the_repetitions_that_fit(
    tokens: int, repetitions: int, context: int, windows: int
) -> None:
    def budget(repetitions: int) -> Budget:
        return Budget(tokens // repetitions // context, 1, tokens, repetitions, context, 1)

    try:
        budget(repetitions).check_fits(windows)
        assert budget(repetitions).windows <= windows
    except UserError as error:
        enough = int(str(error).split("at least ")[1].split(":")[0])
        assert budget(enough).windows <= windows < budget(enough - 1).windows


def test_the_refusal_names_tokens_and_windows() -> None:
    message = r"T/R = 2000 unique tokens \(500 windows\) are asked for, the corpus has 1996 \(499 windows\)"
    with pytest.raises(UserError, match=message):
        Budget.of(recipe(tokens=4000, repetitions=2)).check_fits(499)
