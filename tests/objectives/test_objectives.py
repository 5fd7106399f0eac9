"""What each objective supervises, and that its mean is the quantity it claims."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualm.config import ObjectiveConfig
from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.errors import UserError
from dualm.objectives import OBJECTIVES, time_sampler
from dualm.objectives.autoregressive import autoregressive, with_prefix
from dualm.objectives.example import collate, document_ids
from dualm.objectives.masked_diffusion import MaskedDiffusion, maskable
from dualm.objectives.time import TIME_SAMPLERS

WINDOW = np.array([BOS, 20, 21, EOS, BOS, 30, 31, 32, EOS])
RNG = np.random.default_rng(0)

windows = st.lists(st.integers(16, 99) | st.sampled_from([BOS, EOS]), min_size=3, max_size=40).map(np.array)
quantiles = st.floats(0, 1, exclude_max=True)


def test_ar_predicts_the_next_token_of_the_same_document() -> None:
    example = autoregressive(WINDOW, 0.0, RNG)
    assert example.inputs.tolist() == WINDOW[:-1].tolist()
    supervised = np.flatnonzero(example.weights)
    assert supervised.tolist() == [0, 1, 2, 4, 5, 6, 7]  # not 3: </s> does not predict the next document's <s>
    assert example.targets[supervised].tolist() == [20, 21, EOS, 30, 31, 32, EOS]
    assert example.weights.sum() == pytest.approx(1)


@given(windows, quantiles)
def test_prefix_scores_only_what_follows_it(window: np.ndarray, u: float) -> None:
    example = OBJECTIVES["prefix"](ObjectiveConfig())(window, u, RNG)
    assert 1 <= example.prefix <= len(window) - 2
    supervised = np.flatnonzero(example.weights)
    assert all(supervised + 1 >= example.prefix)  # the target at i+1 is outside the prefix
    assert all(example.targets[supervised] != BOS)


def test_prefix_lengths_cover_their_range() -> None:
    prefix = OBJECTIVES["prefix"](ObjectiveConfig())
    lengths = {prefix(WINDOW, u, RNG).prefix for u in np.linspace(0, 1, 500, endpoint=False)}
    assert lengths == set(range(1, 8))


@given(windows, quantiles, st.sampled_from(["exact", "bernoulli"]), st.booleans(), st.integers(0, 99))
def test_md_masks_and_scores_the_same_tokens(
    window: np.ndarray, u: float, count: str, shifted: bool, seed: int
) -> None:
    objective = MaskedDiffusion(TIME_SAMPLERS["uniform"], count, shifted=shifted)
    example = objective(window, u, np.random.default_rng(seed))
    inputs = window[:-1]
    masked = np.flatnonzero(example.inputs == MASK)
    assert set(masked) <= set(maskable(inputs))
    assert 0 not in masked
    assert not {BOS, PAD} & set(inputs[masked].tolist())
    visible = np.setdiff1d(np.arange(len(inputs)), masked)
    assert np.array_equal(example.inputs[visible], inputs[visible])
    outputs = np.flatnonzero(example.weights)
    assert np.array_equal(outputs + 1 if shifted else outputs, masked)
    assert np.array_equal(example.targets[outputs], inputs[masked])
    assert example.excluded == MASK


@given(st.integers(1, 50), quantiles)
def test_exact_masks_weigh_by_the_realised_rate(maskables: int, u: float) -> None:
    window = np.array([BOS, *range(20, 20 + maskables), 99])
    example = MaskedDiffusion(TIME_SAMPLERS["uniform"])(window, u, RNG)
    masked = np.count_nonzero(example.inputs == MASK)
    assert masked == max(1, np.ceil((1 - u) * maskables))
    assert example.weights.sum() == pytest.approx(1)  # (1/N) * k * (N/k)


def test_the_number_of_masks_is_uniform() -> None:
    """What makes the exact estimator unbiased: every k in 1..N equally often when t is uniform."""
    window = np.array([BOS, *range(20, 25), 99])
    objective = MaskedDiffusion(TIME_SAMPLERS["uniform"])
    counts = [np.count_nonzero(objective(window, u, RNG).inputs == MASK) for u in (np.arange(1000) + 0.5) / 1000]
    assert np.bincount(counts).tolist() == [0, 200, 200, 200, 200, 200]


def test_flat_weights_count_every_supervised_token_alike() -> None:
    objective = MaskedDiffusion(TIME_SAMPLERS["uniform"], weighting="flat")
    weights = [objective(WINDOW, u, RNG).weights for u in (0.1, 0.5, 0.9)]
    assert {float(weight) for row in weights for weight in row[row > 0]} == {2 / len(maskable(WINDOW[:-1]))}


def test_a_window_with_nothing_to_mask_has_no_loss() -> None:
    for count in ("exact", "bernoulli"):
        example = MaskedDiffusion(TIME_SAMPLERS["uniform"], count)(np.array([20, BOS, 21]), 0.5, RNG)
        assert not example.weights.any()
        assert MASK not in example.inputs


def test_stratified_draws_have_one_u_in_every_stratum() -> None:
    for n in (1, 7, 64):
        u = TIME_SAMPLERS["stratified"].draw(np.random.default_rng(n), n)
        assert sorted(np.floor(u * n).astype(int)) == list(range(n))
        assert all((u >= 0) & (u < 1))


def test_uniform_draws_are_independent() -> None:
    u = TIME_SAMPLERS["uniform"].draw(np.random.default_rng(0), 2000)
    filled = len(set(np.floor(u * 2000).astype(int)))
    assert abs(filled / 2000 - (1 - np.exp(-1))) < 0.03  # strata left empty as by chance


def test_an_unknown_time_sampler_is_named() -> None:
    with pytest.raises(UserError, match=r"objective\.time: got 'sometimes', expected uniform or stratified"):
        time_sampler(ObjectiveConfig(time="sometimes"))


def test_collate_flattens_the_supervised_outputs() -> None:
    examples = [with_prefix(WINDOW, 3), with_prefix(WINDOW, 5)]
    batch = collate(examples)
    assert batch.attention.kind == "prefix"
    assert batch.attention.prefix is not None
    assert batch.attention.prefix.tolist() == [3, 5]
    assert batch.rows.tolist() == [2, 4, 5, 6, 7, 12, 13, 14, 15]
    assert batch.targets.tolist() == [EOS, 30, 31, 32, EOS, 30, 31, 32, EOS]
    assert batch.attention.document_ids is not None
    assert batch.attention.document_ids[0].tolist() == document_ids(WINDOW[:-1]).tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert collate(examples, keep_in_document=False).attention.document_ids is None


def test_collate_leaves_out_documents_without_a_border() -> None:
    assert collate([autoregressive(np.arange(20, 29), 0.0, RNG)]).attention.document_ids is None
