"""The lowest loss and the gap, on curves with a known answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dualm.analysis.overfitting import curve, difference_error, jitter, overfitting
from dualm.analysis.table import LOSSES
from dualm.errors import UserError

TOKENS = np.linspace(0, 2e6, 41)[1:]


def table(losses: np.ndarray, se: float = 0.02, finished: bool = True) -> pd.DataFrame:
    about = {
        "run": "one",
        "R": 8,
        "alpha": 1.0,
        "seed": 0,
        "unique_tokens": 250_000,
        "parameters": 1,
        "finished": finished,
    }
    rows = pd.DataFrame({"step": np.arange(len(losses)), "tokens": TOKENS[: len(losses)]}).assign(**about)
    return rows.assign(**{"valid/ar_nll": losses, "valid/ar_nll_se": se})


def valley(noise: float, seed: int, rise: float = 0.4) -> np.ndarray:
    """The minimum is at 1.2e6 tokens; the end is 0.4 nats/token above it."""
    distance = (TOKENS - 1.2e6) / 0.8e6
    return 4 + rise * distance**2 + noise * np.random.default_rng(seed).standard_normal(len(TOKENS))


def test_the_lowest_loss_and_the_gap_of_a_valley() -> None:
    (row,) = overfitting(table(valley(0, 0))).to_dict("records")
    assert row["tokens_least"] == pytest.approx(1.2e6)
    assert row["epochs_least"] == pytest.approx(4.8)
    assert row["gap"] == pytest.approx(0.4)
    assert row["overfits"]
    assert row["tokens_low"] < 1.2e6 < row["tokens_high"] < TOKENS[-1]


def test_the_band_covers_the_true_minimum_and_flat_curves_do_not_overfit() -> None:
    rows = pd.concat([overfitting(table(valley(0.01, seed), se=0.0)) for seed in range(200)])
    covered = ((rows["tokens_low"] <= 1.2e6) & (rows["tokens_high"] >= 1.2e6)).mean()
    assert covered >= 0.95
    assert (rows["tokens_high"] - rows["tokens_low"]).mean() < 0.8e6
    flat = pd.concat([overfitting(table(valley(0.01, seed, rise=0), se=0.0)) for seed in range(200)])
    assert flat["overfits"].mean() <= 0.1


def test_falling_curves_have_no_gap() -> None:
    (row,) = overfitting(table(5 - np.linspace(0, 1, 40))).to_dict("records")
    assert (row["gap"], row["gap_se"], row["overfits"]) == (0, 0, False)
    assert row["tokens_least"] == row["tokens_high"] == TOKENS[-1]


def test_a_difference_on_the_same_windows_has_a_smaller_error_than_its_terms() -> None:
    assert difference_error(np.array(0.02), 0.02, correlation=1.0) == pytest.approx(0)
    assert difference_error(np.array(0.02), 0.02, correlation=0.0) == pytest.approx(0.02 * np.sqrt(2))
    assert difference_error(np.array(0.02), 0.02) < 0.01


def test_jitter_is_that_of_single_points_at_any_spacing() -> None:
    rng = np.random.default_rng(0)
    tokens = np.cumsum(rng.uniform(0.5, 2, 2000))
    line = 7 - 0.001 * tokens
    assert jitter(tokens, line) == pytest.approx(0, abs=1e-9)
    assert jitter(tokens, line + 0.01 * rng.standard_normal(2000)) == pytest.approx(0.01, rel=0.1)
    assert jitter(tokens[:4], np.ones(4)) == 0


def test_unfinished_runs_and_absent_readings_are_skipped() -> None:
    assert overfitting(table(valley(0, 0), finished=False)).empty
    assert set(overfitting(table(valley(0, 0)))["reading"]) == {"ar"}
    assert len(curve(table(valley(0, 0), finished=False), "one", "ar")) == 40
    with pytest.raises(UserError, match="no column 'alpha'"):
        overfitting(table(valley(0, 0)).drop(columns="alpha"))
    assert list(LOSSES) == ["ar", "md", "prefix"]
