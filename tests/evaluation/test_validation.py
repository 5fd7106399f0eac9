"""Validation reads the same windows the same way, in any split of the work, and its errors are honest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.synthetic import packed
from dualm.config import ModelConfig, Recipe, ValidateConfig
from dualm.data.tokenizer import BOS, EOS
from dualm.evaluation.statistics import weighted_mean
from dualm.evaluation.unigram import unigram_nll
from dualm.evaluation.validation import ValidationSet, validate
from dualm.model.transformer import Transformer
from dualm.objectives.example import Batch

MODEL = ModelConfig(layers=1, hidden=16, heads=2, ffn=24, context=12, vocab=40)


def stream_of(tokens: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    stream = rng.integers(16, 40, tokens)
    stream[::17], stream[16::17] = BOS, EOS
    return stream


def recipe(batch: int, windows: int = 9) -> Recipe:
    return Recipe(model=MODEL, validate=ValidateConfig(windows=windows, batch=batch))


def dataset(stream: np.ndarray, recipe: Recipe) -> ValidationSet:
    return ValidationSet.of(recipe, packed(stream, MODEL.context), 0.25)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(MODEL)


def test_readings_do_not_depend_on_the_batch_size(model: Transformer) -> None:
    def score(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return model(*batch.arguments).nll

    stream = stream_of(400)
    results = [validate(dataset(stream, recipe(batch)), recipe(batch), score) for batch in (1, 4, 9)]
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)
    first = results[0]
    # Untrained, with zero output projections, the model hardly looks at its input.
    assert first["valid/ar_nll"] == pytest.approx(np.log(40), abs=0.3)
    assert first["valid/ar_bpb"] == pytest.approx(first["valid/ar_nll"] * 0.25 / np.log(2))
    assert {"valid/md_nelbo_se", "valid/prefix_nll_se", "valid/ar_nll_second_half_se"} < set(first)


def test_each_reading_scores_what_it_says() -> None:
    """A model that charges each window the number of its supervised outputs reveals what was asked of it."""
    stream = np.arange(16, 16 + 13) % 24 + 16
    asked = []

    def score(batch: Batch) -> torch.Tensor:
        asked.append((batch.attention.kind, batch.outputs.tolist()))
        return torch.zeros(len(batch.inputs))

    validate(dataset(stream, recipe(1, 1)), recipe(1, 1), score)
    assert asked[0] == ("causal", list(range(12)))
    nelbo = asked[1:5]
    assert asked[5] == ("prefix", list(range(5, 12)))
    assert asked[6] == ("causal", list(range(5, 12)))
    assert [kind for kind, *_ in nelbo] == ["bidirectional"] * 4
    # Four draws of t, one in each quarter of (0, 1].
    assert [len(rows) for _, rows in nelbo] == [10, 7, 5, 2]


def test_the_nelbo_is_the_mean_of_its_mask_rates() -> None:
    """A model that charges each window its number of masks reveals which bin it was counted in."""
    stream = np.arange(16, 16 + 21 * 8) % 24 + 16
    wide = Recipe(model=ModelConfig(layers=1, hidden=16, heads=2, ffn=24, context=21, vocab=40))
    wide.validate = ValidateConfig(windows=5, batch=5)
    data = ValidationSet.of(wide, packed(stream, 21), 0.25)
    found = validate(data, wide, lambda batch: torch.bincount(batch.outputs // 21, minlength=5).float())
    bins = {name: loss for name, loss in found.items() if name.startswith("valid/md_loss_t")}
    assert list(bins) == [f"valid/md_loss_t{centre:.2f}" for centre in np.arange(0.05, 1, 0.1)]
    assert list(bins.values()) == pytest.approx(
        [1.5 + 2 * place for place in range(10)]
    )  # 20 maskable: 1, 2 | 3, 4 | ...
    assert found["valid/md_nelbo"] == pytest.approx(np.mean(list(bins.values())))


def test_windows_are_spread_over_the_whole_split() -> None:
    stream = np.arange(1000)
    windows = dataset(stream, recipe(1, 5)).windows
    assert [window.tokens[0] for window in windows] == [0, 240, 492, 732, 984]
    assert all(len(set(np.diff(window.tokens))) == 1 for window in windows)


def test_a_split_shorter_than_a_window_is_padded() -> None:
    windows = dataset(np.arange(16, 22), recipe(1)).windows
    assert [window.tokens.tolist() for window in windows] == [[16, 17, 18, 19, 20, 21, *[0] * 7]]


def test_the_standard_error_covers_the_truth() -> None:
    """95 % of intervals of ±1.96 s.e. should hold the true mean; windows differ in length."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        tokens = rng.integers(5, 50, 60)
        losses = 3 + rng.normal(size=60) / np.sqrt(tokens) + 0.3 * rng.normal(size=60)
        mean, error = weighted_mean(losses, tokens)
        covered += abs(mean - 3) < 1.96 * error
    assert 0.91 < covered / 500 < 0.98


def test_the_unigram_baseline_is_the_cross_entropy_of_the_counts() -> None:
    stream = np.tile([20, 20, 20, 21], 50)
    ten = packed(stream[:121], 12)  # 120 targets
    mean, _ = unigram_nll(dataset(stream, recipe(1)), [ten], [1.0], 40)
    counts = np.ones(40)
    counts[[0, 1]] = 0
    counts[20] += 90
    counts[21] += 30
    targets = np.array([20, 20, 20, 21])
    assert mean == pytest.approx(-np.log(counts[targets] / counts.sum()).mean(), abs=1e-6)


def test_sources_count_by_their_shares() -> None:
    """A source of which more is there than is used counts no more than one that is repeated."""
    stream = np.tile([20, 20, 20, 21], 50)
    twenties, others = packed(np.full(181, 20), 12), packed(np.full(61, 21), 12)  # 15 and 5 windows
    mean, _ = unigram_nll(dataset(stream, recipe(1)), [twenties, others], [0.25, 0.75], 40)
    counts = np.ones(40)
    counts[[0, 1]] = 0
    counts[20] += 60
    counts[21] += 180
    targets = np.array([20, 20, 20, 21])
    assert mean == pytest.approx(-np.log(counts[targets] / counts.sum()).mean(), abs=1e-6)
