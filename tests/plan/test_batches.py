"""Training batches are a function of (seed, step, place): any world, any starting point, the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.synthetic import packed
from dualm.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, RunConfig, TrainConfig
from dualm.data.tokenizer import MASK
from dualm.objectives.example import Batch
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import Same
from dualm.training.prefetch import Prefetcher

STREAM = np.random.default_rng(0).integers(16, 90, 2000)


def batches(
    seed: int = 0, alpha: float = 0.4, stream: np.ndarray = STREAM, repetitions: int = 3, **objective: float
) -> TrainingBatches:
    recipe = Recipe(
        run=RunConfig(seed=seed),
        data=DataConfig(repetitions=repetitions),
        model=ModelConfig(context=10),
        objective=ObjectiveConfig(alpha=alpha, **{"prefix_fraction": 0.3, **objective}),
        train=TrainConfig(steps=15, global_batch=12, micro_batch=3),
    )
    return TrainingBatches.of(recipe, [Same(seed, packed(stream, 10))])


def same(a: Batch, b: Batch) -> bool:
    tensors = ("inputs", "outputs", "targets", "weights")
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        and a.attention.kind == b.attention.kind
    )


def per_step(source: Iterator[tuple[str, Batch]], count: int) -> list[list[tuple[str, Batch]]]:
    return [list(islice(source, count)) for _ in range(15)]


def test_ranks_share_the_batches_of_one_process() -> None:
    alone = per_step(batches().for_rank(0, 1, 0), 4)
    for world in (2, 4):
        ranks = [per_step(batches().for_rank(rank, world, 0), 4 // world) for rank in range(world)]
        for step, expected in enumerate(alone):
            dealt = [ranks[place % world][step][place // world] for place in range(4)]
            assert [name for name, _ in dealt] == [name for name, _ in expected]
            assert all(same(mine, theirs) for (_, mine), (_, theirs) in zip(dealt, expected, strict=True))


def test_a_later_start_gives_the_later_batches() -> None:
    whole = list(batches().for_rank(0, 1, 0))
    rest = list(batches().for_rank(0, 1, 9))
    assert len(rest) == 6 * 4
    assert all(same(a, b) for (_, a), (_, b) in zip(whole[9 * 4 :], rest, strict=True))


def test_seeds_and_steps_differ() -> None:
    assert not same(next(batches(0).step(0))[1], next(batches(1).step(0))[1])
    one_window = batches(alpha=0, repetitions=180)
    masks = {tuple((next(one_window.step(step))[1].inputs == MASK)[0].tolist()) for step in range(15)}
    assert len(masks) > 10  # the same window is masked anew in every step


def test_every_window_is_seen_as_often_as_asked() -> None:
    stream = np.arange(16, 16 + 2000)  # tokens are positions
    plan = batches(alpha=1.0, stream=stream)
    seen = np.zeros(plan.budget.windows, dtype=int)
    for _, batch in plan.for_rank(0, 1, 0):
        seen[(batch.inputs[:, 0].numpy() - 16) // 10] += 1
    assert set(seen) == {3}


def test_stratified_time_spans_the_global_batch() -> None:
    plan = batches(alpha=0.0)
    for step in range(5):
        _, u = plan.plan(step)
        assert sorted(np.floor(u.ravel() * 12).astype(int)) == list(range(12))


def test_a_micro_batch_has_mask_rates_from_all_over() -> None:
    """Dealt in order, the micro-batches of a step would hold a quarter of the rates each."""
    plan = batches(alpha=0.0)
    spread = [np.ptp(micro) for step in range(15) for micro in plan.plan(step)[1]]
    means = [micro.mean() for step in range(15) for micro in plan.plan(step)[1]]
    assert np.mean(spread) > 0.4  # of three random ones 0.5; in order mostly 0.17
    assert 0.1 < np.std(means) < 0.19  # 0.15 for three of twelve at random; in order: 0.23


def test_prefetching_changes_nothing_and_hands_errors_on() -> None:
    loader = Prefetcher(batches().for_rank(0, 1, 0), 2)
    fetched = list(loader)
    loader.close()
    assert all(same(a, b) for (_, a), (_, b) in zip(fetched, batches().for_rank(0, 1, 0), strict=True))

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    loader = Prefetcher(broken(), 2)
    assert next(loader) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(loader)


def test_random_lengths_lose_no_token() -> None:
    """Windows in pieces hold the very tokens that whole ones do, and the batch weighs the same."""
    whole, cut = batches(alpha=1.0, prefix_fraction=0.0), batches(alpha=1.0, prefix_fraction=0.0)
    cut.recipe.data.random_length = 1.0
    lengths = set()
    for step in range(15):
        for (_, one), (_, other) in zip(whole.step(step), cut.step(step), strict=True):
            length = other.inputs.shape[1]
            pieces = -(-10 // length)
            lengths.add(length)
            assert other.inputs.shape[0] == 3 * pieces
            for row in range(3):
                joined = other.inputs[row * pieces : (row + 1) * pieces].flatten()[:10]
                assert torch.equal(joined, one.inputs[row])
            assert sorted(other.targets.tolist()) == sorted(one.targets.tolist())
            assert other.weights.sum() / other.inputs.shape[0] == pytest.approx(one.weights.sum() / 3)
    assert lengths == set(range(2, 11))


def test_random_lengths_come_as_often_as_asked() -> None:
    plan = batches(alpha=0.0)
    plan.recipe.data.random_length = 0.4
    shorter = [batch.inputs.shape[1] < 10 for step in range(15) for _, batch in plan.step(step)]
    assert 0.2 < np.mean(shorter) < 0.55
    again = batches(alpha=0.0)
    again.recipe.data.random_length = 0.4
    assert same(next(plan.step(3))[1], next(again.step(3))[1])
