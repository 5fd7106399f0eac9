"""What each objective supervises, and that its mean is the quantity it claims."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualm.config import ObjectiveConfig
from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.data.windows import Window, document_ids
from dualm.model.attention import AttentionMask
from dualm.model.transformer import never_predicted
from dualm.objectives import OBJECTIVES
from dualm.objectives.autoregressive import autoregressive, with_prefix
from dualm.objectives.example import collate
from dualm.objectives.masked_diffusion import MaskedDiffusion, maskable
from dualm.objectives.time import UNIFORM

TOKENS = np.array([BOS, 20, 21, EOS, BOS, 30, 31, 32, EOS])
WINDOW = Window(TOKENS)
RNG = np.random.default_rng(0)

windows = st.lists(st.integers(16, 99) | st.sampled_from([BOS, EOS]), min_size=3, max_size=40).map(np.array).map(Window)
quantiles = st.floats(0, 1, exclude_max=True)


def test_ar_predicts_the_next_token_of_the_same_document() -> None:
    example = autoregressive(WINDOW, 0.0, RNG)
    assert example.inputs.tolist() == TOKENS[:-1].tolist()
    supervised = np.flatnonzero(example.weights)
    assert supervised.tolist() == [0, 1, 2, 4, 5, 6, 7]  # not 3: </s> does not predict the next document's <s>
    assert example.targets[supervised].tolist() == [20, 21, EOS, 30, 31, 32, EOS]
    assert example.weights.sum() == pytest.approx(1)


@given(windows, quantiles)
def test_prefix_scores_only_what_follows_it(window: Window, u: float) -> None:
    example = OBJECTIVES["prefix"].build(ObjectiveConfig(), UNIFORM)(window, u, RNG)
    assert 1 <= example.prefix <= len(window.tokens) - 2
    supervised = np.flatnonzero(example.weights)
    assert all(supervised + 1 >= example.prefix)  # the target at i+1 is outside the prefix
    assert all(example.targets[supervised] != BOS)


def test_prefix_lengths_cover_their_range() -> None:
    prefix = OBJECTIVES["prefix"].build(ObjectiveConfig(), UNIFORM)
    lengths = {prefix(WINDOW, u, RNG).prefix for u in np.linspace(0, 1, 500, endpoint=False)}
    assert lengths == set(range(1, 8))


@given(windows, quantiles, st.sampled_from(["exact", "bernoulli"]), st.booleans(), st.integers(0, 99))
def test_md_masks_and_scores_the_same_tokens(window: Window, u: float, count: str, shifted: bool, seed: int) -> None:
    objective = MaskedDiffusion(mask_count=count, shifted=shifted)
    example = objective(window, u, np.random.default_rng(seed))
    inputs = window.inputs
    masked = np.flatnonzero(example.inputs == MASK)
    assert set(masked) <= set(maskable(window))
    assert 0 not in masked
    assert not {BOS, PAD} & set(inputs[masked].tolist())
    visible = np.setdiff1d(np.arange(len(inputs)), masked)
    assert np.array_equal(example.inputs[visible], inputs[visible])
    outputs = np.flatnonzero(example.weights)
    assert np.array_equal(outputs + 1 if shifted else outputs, masked)
    assert np.array_equal(example.targets[outputs], inputs[masked])
    assert never_predicted(AttentionMask(example.attention)) == MASK


@given(st.integers(1, 50), quantiles)
def test_exact_masks_weigh_by_the_realised_rate(maskables: int, u: float) -> None:
    window = Window(np.array([BOS, *range(20, 20 + maskables), 99]))
    example = MaskedDiffusion()(window, u, RNG)
    masked = np.count_nonzero(example.inputs == MASK)
    assert masked == max(1, np.ceil((1 - u) * maskables))
    assert example.weights.sum() == pytest.approx(1)  # (1/N) * k * (N/k)


def test_the_number_of_masks_is_uniform() -> None:
    """What makes the exact estimator unbiased: every k in 1..N equally often when t is uniform."""
    window = Window(np.array([BOS, *range(20, 25), 99]))
    objective = MaskedDiffusion()
    counts = [np.count_nonzero(objective(window, u, RNG).inputs == MASK) for u in (np.arange(1000) + 0.5) / 1000]
    assert np.bincount(counts).tolist() == [0, 200, 200, 200, 200, 200]


def test_flat_weights_are_the_same_for_every_supervised_token() -> None:
    objective = MaskedDiffusion(weighting="flat")
    weights = [objective(WINDOW, u, RNG).weights for u in (0.1, 0.5, 0.9)]
    assert {float(weight) for row in weights for weight in row[row > 0]} == {2 / len(maskable(WINDOW))}


def test_a_window_with_nothing_to_mask_has_no_loss() -> None:
    for count in ("exact", "bernoulli"):
        example = MaskedDiffusion(mask_count=count)(Window(np.array([20, BOS, 21])), 0.5, RNG)
        assert not example.weights.any()
        assert MASK not in example.inputs


def test_a_prompt_is_neither_masked_nor_scored() -> None:
    window = Window(np.array([BOS, 20, 21, 22, 30, 31, EOS, EOS, EOS]), given=4)
    ar = autoregressive(window, 0.0, RNG)
    assert np.flatnonzero(ar.weights).tolist() == [3, 4, 5]  # 30, 31 and the first </s>; the padding teaches nothing
    prefix = OBJECTIVES["prefix"].build(ObjectiveConfig(), UNIFORM)(window, 0.9, RNG)
    assert (prefix.prefix, np.flatnonzero(prefix.weights).tolist()) == (4, [3, 4, 5])
    for seed in range(20):
        md = MaskedDiffusion()(window, 0.0, np.random.default_rng(seed))  # t = 1: all that may be is masked
        assert md.inputs.tolist() == [BOS, 20, 21, 22, MASK, MASK, MASK, MASK]


def test_a_prompt_is_hidden_as_often_as_asked() -> None:
    window = Window(np.array([BOS, 20, 21, 22, 30, 31, EOS, EOS, EOS]), given=4)
    objective = MaskedDiffusion(hide_prompt=0.3)
    examples = [objective(window, 0.5, np.random.default_rng(seed)) for seed in range(1000)]
    hidden = [example.inputs[:4].tolist() == [BOS, MASK, MASK, MASK] for example in examples]
    assert 0.25 < np.mean(hidden) < 0.35
    heads = [example.inputs[:4].tolist() for example in examples]
    assert all(
        head == ([BOS, MASK, MASK, MASK] if hid else [BOS, 20, 21, 22]) for head, hid in zip(heads, hidden, strict=True)
    )
    assert all(np.flatnonzero(example.weights).min() >= 3 for example in examples)


def test_masked_inputs_leave_the_targets_alone() -> None:
    window = Window(np.concatenate([[BOS], np.arange(20, 220), [EOS]]))
    plain = autoregressive(window, 0.0, RNG)
    masked = OBJECTIVES["masked_input"].build(ObjectiveConfig(input_mask=0.3), UNIFORM)(window, 0.0, RNG)
    assert np.array_equal(masked.targets, plain.targets)
    assert np.array_equal(masked.weights, plain.weights)
    assert masked.attention == "causal"
    hidden = masked.inputs == MASK
    assert not hidden[0]
    assert 0.2 < hidden.mean() < 0.4
    assert np.array_equal(masked.inputs[~hidden], plain.inputs[~hidden])


def test_collate_flattens_the_supervised_outputs() -> None:
    examples = [with_prefix(WINDOW, 3), with_prefix(WINDOW, 5)]
    batch = collate(examples)
    assert batch.attention.kind == "prefix"
    assert batch.attention.prefix is not None
    assert batch.attention.prefix.tolist() == [3, 5]
    assert batch.outputs.tolist() == [2, 4, 5, 6, 7, 12, 13, 14, 15]
    assert batch.targets.tolist() == [EOS, 30, 31, 32, EOS, 30, 31, 32, EOS]
    assert batch.attention.document_ids is not None
    assert batch.attention.document_ids[0].tolist() == document_ids(TOKENS[:-1]).tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert collate(examples, keep_in_document=False).attention.document_ids is None


def test_collate_leaves_out_documents_without_a_border() -> None:
    assert collate([autoregressive(Window(np.arange(20, 29)), 0.0, RNG)]).attention.document_ids is None
