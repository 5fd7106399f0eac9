"""Repetition, order and exposure are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.synthetic import packed
from dualm.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, TrainConfig
from dualm.errors import UserError
from dualm.objectives import HALVES, Half
from dualm.plan.budget import Budget, SourceBudget
from dualm.plan.mixture import Mixture
from dualm.plan.order import Order
from dualm.plan.passes import Same
from dualm.plan.shares import Shares


def recipe(context: int = 4, batch: int = 8, **keys: int | None) -> Recipe:
    data = DataConfig(tokens=keys.get("tokens"), repetitions=keys.get("repetitions") or 1)
    return Recipe(
        data=data, model=ModelConfig(context=context), train=TrainConfig(steps=keys.get("steps"), global_batch=batch)
    )


def order(windows: int, micro_batch: int, alpha: float) -> Order:
    mixture = Mixture.of(np.full(1, alpha), 1, ObjectiveConfig())
    return Order([windows], Shares(0), micro_batch, mixture.is_ar, mixture.ar_before)


def epoch(seed: int, plan: Order, number: int) -> dict[Half, np.ndarray]:
    """The windows of an epoch that each half gets, where they are cut once."""
    return Same(seed, packed(np.zeros(1, int), 1)).epoch(plan.epoch(0, number))


@given(st.integers(0, 99), st.integers(1, 60), st.integers(1, 7), st.floats(0, 1), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_every_window_has_its_share_of_ar(seed: int, windows: int, micro: int, alpha: float, repetitions: int) -> None:
    plan = order(windows, micro, alpha)
    exposures = np.zeros(windows, dtype=int)
    for number in range(repetitions):
        placed = epoch(seed, plan, number)
        assert sorted([*placed["ar"], *placed["md"]]) == list(range(windows))
        exposures[placed["ar"]] += 1
    assert exposures.max() - exposures.min() <= 1
    # The mean is alpha * R up to the micro-batch that the last epoch may cut.
    assert np.all(np.abs(exposures - alpha * repetitions) <= 1 + micro / (2 * windows))


@pytest.mark.parametrize(("alpha", "repetitions"), [(0.5, 32), (1 / 8, 128), (63 / 64, 64)])
def test_sixteen_exposures_are_sixteen(alpha: float, repetitions: int) -> None:
    plan = order(64, 8, alpha)
    exposures = np.zeros(64, dtype=int)
    for number in range(repetitions):
        exposures[epoch(0, plan, number)["ar"]] += 1
    assert set(exposures) == {round(alpha * repetitions)}


def test_epochs_differ_and_seeds_differ() -> None:
    plan = order(50, 5, 0.5)
    assert epoch(1, plan, 0)["ar"].tolist() != epoch(1, plan, 1)["ar"].tolist()
    assert epoch(1, plan, 0)["ar"].tolist() != epoch(2, plan, 0)["ar"].tolist()
    assert epoch(1, plan, 3)["md"].tolist() == epoch(1, order(50, 5, 0.5), 3)["md"].tolist()


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
    st.integers(1, 6),
    st.floats(0, 1),
    st.integers(0, 500),
)
@settings(max_examples=100, deadline=None)
def test_slots_fill_every_epoch_of_every_source(windows: list[int], micro: int, alpha: float, start: int) -> None:
    mixture = Mixture.of(np.full(1, alpha), 1, ObjectiveConfig())
    shares = Shares.of(0, {number: 1 / len(windows) for number in range(1, len(windows))})
    whole = Order(windows, shares, micro, mixture.is_ar, mixture.ar_before)
    places = [whole.place(slot) for slot in range(600)]
    fresh = Order(windows, shares, micro, mixture.is_ar, mixture.ar_before)
    assert fresh.place(start) == places[start]  # in any order of asking
    assert len(set(places)) == len(places)
    for source, unique in enumerate(windows):
        mine = [place for place in places if place.source == source]
        assert abs(len(mine) - 600 / len(windows)) < 3
        for number in range(mine[-1].epoch.number):  # the epochs that are whole
            epoch = whole.epoch(source, number)
            for half in HALVES:
                found = [place.number for place in mine if (place.epoch.number, place.half) == (number, half)]
                assert found == list(range(getattr(epoch.end, half) - getattr(epoch.begin, half)))
            assert sum(epoch.end) - sum(epoch.begin) == unique


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
        source = SourceBudget(None, tokens, repetitions, tokens // repetitions // context)
        return Budget((source,), 1, tokens, repetitions, context, 1)

    try:
        budget(repetitions).check_fits([windows])
        assert budget(repetitions).windows <= windows
    except UserError as error:
        enough = int(str(error).split("at least ")[1].split(":")[0])
        assert budget(enough).windows <= windows < budget(enough - 1).windows


def test_the_refusal_names_tokens_and_windows() -> None:
    message = r"T/R = 2000 unique tokens \(500 windows\) are asked for, the corpus has 1996 \(499 windows\)"
    with pytest.raises(UserError, match=message):
        Budget.of(recipe(tokens=4000, repetitions=2)).check_fits([499])
