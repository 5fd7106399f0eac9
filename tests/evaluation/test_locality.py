"""The locality report counts every masked token once, at its own distance."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from dualm.cli import main
from dualm.data.tokenizer import byte_tokenizer
from dualm.evaluation.locality import distances, locality, locality_table, write
from dualm.language_model import LanguageModel
from tests.conftest import random_model

TEXT = "the old sea sang to the small red boat all night long " * 8


@pytest.fixture(scope="module", params=[True, False])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    network = random_model(0, 0.3, layers=1, context=24, vocab=272)
    return LanguageModel(network.eval(), byte_tokenizer(), shifted=request.param, folder=Path())


def test_distances_are_to_the_nearest_on_either_side() -> None:
    visible = np.array([[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]], bool)
    assert distances(visible).tolist() == [[0, 1, 2, 1, 0, 1], [0, 1, 2, 3, 4, 5], [2, 1, 0, 0, 1, 2]]


def test_every_masked_token_is_counted_once(model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "sea.txt"
    path.write_text(TEXT)
    bins = locality(model, path, draws=8, seed=0, batch=7)
    whole = [one for one in bins if (one.rate_above, one.rate_upto) == (0.0, 1.0)]
    parts = [one for one in bins if one not in whole]
    assert sum(one.tokens for one in whole) == sum(one.tokens for one in parts)
    windows, maskable = math.ceil(len(TEXT) / 24), 23
    assert sum(one.tokens for one in whole) == pytest.approx(8 * windows * maskable / 2, rel=0.05)  # E[t] = 1/2
    for one in whole:
        same = [part for part in parts if part.above == one.above]
        mean = sum(part.loss * part.tokens for part in same) / sum(part.tokens for part in same)
        assert mean == pytest.approx(one.loss)
    again = locality(model, path, draws=8, seed=0, batch=50)
    assert [one.tokens for one in again] == [one.tokens for one in bins]
    assert [one.loss for one in again] == pytest.approx([one.loss for one in bins], abs=1e-5)
    write(bins, tmp_path / "out/locality.csv")
    with (tmp_path / "out/locality.csv").open() as file:
        assert [int(row["tokens"]) for row in csv.DictReader(file)] == [one.tokens for one in bins]
    assert locality_table(bins, "sea").row_count == len(whole)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["locality", str(tmp_path), "--text", "none.txt", "--draws", "0"]) == 2
    assert capsys.readouterr().err == "dualm: --draws: got 0, expected at least 1\n"
    assert main(["locality", str(tmp_path), "--text", "none.txt"]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
