"""Perplexity of text files: against the sum by hand, at every stride, and for files of every kind."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dualm
from dualm.cli import main
from dualm.data.tokenizer import BOS, RESERVED
from dualm.errors import UserError
from dualm.evaluation.perplexity import perplexity
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring
from dualm.likelihood.pairs import Pair
from dualm.model.attention import AttentionMask
from tests.evaluation.tiny import save_model, written
from tests.test_cli import one_line

CONTEXT = 16
TEXT = "Call me Ishmael. Some years ago - never mind how long precisely - "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), context=CONTEXT)


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return dualm.load(folder)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def causal(model: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Nats of each of `tokens` `[length]` after the first, `[length - 1]`."""
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        hidden = model.model.hidden(ids[None, :-1], AttentionMask("causal"))
        log_p = model.model.lm_head(hidden)[0].log_softmax(-1)
    return -log_p.gather(-1, ids[1:, None]).squeeze(-1).numpy()


def test_windows_side_by_side_by_hand(model: LanguageModel, text: Path) -> None:
    tokens = np.array([BOS, *(RESERVED + byte for byte in TEXT.encode())])
    starts = range(0, len(TEXT) - CONTEXT, CONTEXT)
    blocks = [causal(model, tokens[start : start + CONTEXT + 1]) for start in starts]
    left = len(TEXT) % CONTEXT
    blocks.append(causal(model, tokens[-CONTEXT - 1 :])[-left:])  # the last, shorter one has a whole context, too
    losses, sizes = np.array([block.mean() for block in blocks]), np.array([len(block) for block in blocks])
    found = perplexity(model, text, Scoring("ar"), stride=CONTEXT)
    assert found.nats_per_token == pytest.approx(np.concatenate(blocks).mean(), rel=1e-5)
    spread = (((losses - found.nats_per_token) * sizes) ** 2).sum() * len(blocks) / (len(blocks) - 1)
    assert found.standard_error == pytest.approx(math.sqrt(spread) / sizes.sum(), rel=1e-4)
    assert (found.tokens, found.bytes, found.windows) == (len(TEXT), len(TEXT), math.ceil(len(TEXT) / CONTEXT))
    assert found.perplexity == math.exp(found.nats_per_token)
    assert found.bits_per_byte == pytest.approx(found.nats_per_token / math.log(2))  # a byte is a token here


def test_overlapping_windows_by_hand(model: LanguageModel, text: Path) -> None:
    tokens, stride = np.array([BOS, *(RESERVED + byte for byte in TEXT.encode())]), 5
    total = causal(model, tokens[: CONTEXT + 1]).sum()
    for start in range(CONTEXT + 1, len(tokens), stride):
        window = tokens[min(start + stride, len(tokens)) - CONTEXT - 1 : start + stride]
        total += causal(model, window)[start - start - min(stride, len(tokens) - start) :].sum()
    found = perplexity(model, text, Scoring("ar"), stride=stride)
    assert found.nats_per_token == pytest.approx(total / len(TEXT), rel=1e-5)


def test_a_short_text_is_scored_as_a_whole_in_every_mode(model: LanguageModel, text: Path) -> None:
    text.write_text(TEXT[:12])
    for mode in ("ar", "prefix", "mc", "pll"):
        whole = model.score([("", TEXT[:12])], mode)[0]
        found = perplexity(model, text, Scoring(mode))
        assert found.nats_per_token == pytest.approx(-whole.log_likelihood / 12)
        assert math.isnan(found.standard_error)  # one window says nothing about its spread


def test_blocks_of_a_long_text_in_mode_mc(model: LanguageModel, text: Path) -> None:
    tokens = np.array([BOS, *(RESERVED + byte for byte in TEXT.encode())])
    scoring, stride = Scoring("mc", draws=4), CONTEXT - 1  # one token before each block stays visible
    starts = range(1, len(tokens), stride)
    pairs = [
        Pair(tokens[max(0, stop - CONTEXT) : start], tokens[start:stop]) for start, stop in ends(starts, len(tokens))
    ]
    by_hand = -sum(score.log_likelihood for score in model.score_tokens(pairs, scoring)) / len(TEXT)
    assert perplexity(model, text, scoring, stride=CONTEXT).nats_per_token == pytest.approx(by_hand, rel=1e-6)


def ends(starts: range, total: int) -> list[tuple[int, int]]:
    return [(start, min(start + starts.step, total)) for start in starts]


@pytest.mark.parametrize("mode", ["ar", "mc"])
def test_the_same_number_whatever_the_batch_size(model: LanguageModel, text: Path, mode: str) -> None:
    one, many = (perplexity(model, text, Scoring(mode, draws=4), batch=batch) for batch in (1, 16))
    assert one.nats_per_token == pytest.approx(many.nats_per_token, rel=1e-6)


def test_byte_order_mark_and_line_ends(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "unix.txt").write_bytes("é\nb\n".encode())
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + "é\r\nb\r\n".encode())
    unix, windows = (perplexity(model, tmp_path / f"{name}.txt", Scoring()) for name in ("unix", "windows"))
    assert (unix.nats_per_token, unix.bytes) == (windows.nats_per_token, 5)
    assert windows.bytes == 5


def test_evaluate_text_writes_what_it_shows(
    folder: Path, model: LanguageModel, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(folder), "--text", str(text), "--draws", "4", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "≤ " in said
    assert "mc is a bound" in said
    rows = written(tmp_path / "out")["results"]
    expected = perplexity(model, text, Scoring("ar"))
    assert rows[0]["nats_per_token"] == expected.nats_per_token
    assert rows[0]["bits_per_byte"] == expected.bits_per_byte
    assert f"{expected.perplexity:.2f}" in said
    (table,) = (tmp_path / "out").glob("text-ar+mc-*.csv")
    with table.open() as file:
        assert [row["mode"] for row in csv.DictReader(file)] == ["ar", "mc"]


def test_text_needs_no_lm_eval(folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("lm_eval", "dualm.evaluation", "dualm.interop"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate", str(folder), "--text", str(text), "--modes", "ar"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty, expected a text"),
        ("é".encode("latin-1"), "not UTF-8 at byte 0"),
    ],
)
def test_a_file_that_is_no_text(
    folder: Path, tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["evaluate", str(folder), "--text", str(path)]) == 2
    line = one_line(capsys.readouterr().err)
    assert str(path) in line
    assert message in line


@pytest.mark.parametrize("stride", [0, CONTEXT + 1])
def test_a_stride_that_is_no_part_of_the_context(model: LanguageModel, text: Path, stride: int) -> None:
    with pytest.raises(UserError, match=f"--stride: got {stride}, expected 1 to {CONTEXT}"):
        perplexity(model, text, Scoring(), stride=stride)
