"""Sample quality: entropy and repetition by hand, perplexity against transformers, MAUVE of like and unlike texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dualm.cli import main
from dualm.evaluation.judge import Judge
from dualm.evaluation.quality import distinct, quality, read_samples, unigram_entropy
from tests.evaluation.tiny import save_model, write_lines
from tests.test_cli import one_line

CONTEXT = 32
TEXTS = [
    "the cat sat",
    "the the the the",
    "",
    "a much longer text than the judge can read at once, so it is read in pieces",
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    return write_lines(path, [{"step": 1, "text": text} for text in TEXTS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge: an exported model."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("judge")
    save_model(root / "model", context=CONTEXT)
    assert main(["export", str(root / "model"), "--to", str(root / "export")]) == 0
    return root / "export"


def test_entropy_of_a_few_words() -> None:
    assert unigram_entropy("abcd") == pytest.approx(math.log(4))
    assert unigram_entropy("aaaa") == 0
    assert unigram_entropy("aab") == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))


def test_distinct_counts_pooled_ngrams() -> None:
    assert distinct(["aab", "ab"], 1) == 2 / 5
    assert distinct(["aab", "ab"], 2) == 2 / 3  # aa, ab, ab
    assert math.isnan(distinct(["a"], 2))


def test_without_a_judge_tokens_are_words(samples: Path) -> None:
    found = quality(read_samples(samples))
    assert (found.unit, found.perplexity, found.mauve) == ("words", None, None)
    assert [sample.tokens for sample in found.samples] == [3, 4, 0, 17]
    assert found.length == 24 / 4
    assert found.samples[1].entropy == 0
    assert found.entropy == pytest.approx((math.log(3) + 0 + unigram_entropy(TEXTS[3].split())) / 3)


def test_perplexity_is_that_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    judge = Judge.load(folder, "cpu")
    found = quality(TEXTS[:2], judge)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    nats = []
    for text in TEXTS[:2]:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            nats.append((model(ids, labels=ids).loss.item(), ids.shape[1] - 1))
    total = sum(loss * tokens for loss, tokens in nats) / sum(tokens for _, tokens in nats)
    assert found.perplexity == pytest.approx(math.exp(total), rel=1e-5)
    assert found.samples[0].perplexity == pytest.approx(math.exp(nats[0][0]), rel=1e-5)
    assert found.median_perplexity == pytest.approx(np.median([math.exp(loss) for loss, _ in nats]), rel=1e-5)


def test_long_texts_are_read_to_the_end_and_empty_ones_left_out(folder: Path) -> None:
    judge = Judge.load(folder, "cpu")
    nats, tokens = judge.loss(judge.encode(TEXTS[3]))
    assert tokens == len(TEXTS[3]) > judge.context
    assert nats > 0
    found = quality(TEXTS, judge)
    assert found.samples[2].perplexity is None
    assert found.perplexity == quality([text for text in TEXTS if text], judge).perplexity


def test_mauve_of_like_and_unlike_texts(folder: Path) -> None:
    pytest.importorskip("mauve")
    judge, draw = Judge.load(folder, "cpu"), np.random.default_rng(0)
    english = ["".join(draw.choice(list("etaoin "), 20)) for _ in range(80)]
    digits = ["".join(draw.choice(list("0123456789"), 20)) for _ in range(40)]
    alike, unlike = (quality(english[:40], judge, other).mauve for other in (english[40:], digits))
    assert alike is not None
    assert unlike is not None
    assert unlike < 0.5 < alike <= 1
    assert quality(english[:40], judge, english[40:]).mauve == alike


def test_the_command_shows_entropy_beside_perplexity(
    folder: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "quality.json"
    assert main(["quality", str(samples), "--judge", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert f"{written['perplexity']:.2f}" in said
    assert f"{written['entropy']:.3f}" in said
    assert "believe it only where entropy is" in said
    assert len(written["samples"]) == len(TEXTS)
    assert written["samples"][2] == {"tokens": 0, "entropy": None, "perplexity": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ('{"txt": "a"}\n', ":1: got fields txt, expected a field 'text' that holds a text"),
        ('{"text": 3}\n', ":1: got fields text, expected a field 'text' that holds a text"),
        ("a\n", ":1: not JSON"),
        ('{"text": " "}\n', "holds no text, expected samples"),
        ("", "holds no text, expected samples"),
    ],
)
def test_a_file_that_holds_no_samples(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "samples.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["quality", str(path)]) == 2
    line = one_line(capsys.readouterr().err)
    assert str(path) in line
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "nowhere"], "--judge: nowhere: no such folder, expected a Hugging Face causal language model"),
        (["--judge", "{empty}"], "not a Hugging Face causal language model"),
        (["--reference", "{samples}"], "--reference: got no --judge"),
        (
            ["--judge", "{judge}", "--reference", "{samples}"],
            "--reference: got 3 samples and 3 texts, expected 20 of each",
        ),
        (["--judge", "{judge}", "--device", "abacus"], "--device: got 'abacus'"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, samples: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(empty=tmp_path, samples=samples, judge=folder) for word in arguments]
    assert main(["quality", str(samples), *filled]) == 2
    assert message in one_line(capsys.readouterr().err)
