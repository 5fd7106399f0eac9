"""`dualm evaluate RUN --corpora NAMES`: documents of data sets, their detokenizers, windows over all of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualm
from dualm.cli import main
from dualm.data.tokenizer import BOS, EOS
from dualm.errors import UserError
from dualm.evaluation import detokenizers
from dualm.evaluation.corpora import CORPORA, located
from dualm.evaluation.detokenizers import detokenized
from dualm.likelihood.pairs import Pair
from tests.evaluation.tiny import save_model, write_lines, written
from tests.test_cli import one_line


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        ("WIKITEXT", " = Tower Building = \n", " = Tower Building =\n"),
        (
            "WIKITEXT",
            'a co @-@ star of 1 @,@ 000 films ( in 2002 ) , " Craig " .',
            'a co-star of 1,000 films (in 2002), "Craig" .',
        ),
        ("PTB", "mr. smith 's firm does n't have $ N N <unk>", "mr. smith's firm doesn't have $1 1 ?"),
        ("LM1B", 'It was $ 5 , he said . " Why ? " ( Reuters )', 'It was $5, he said. "Why?" (Reuters)'),
        ("LAMBADA", "  “ Go , ” he said \n", '\n" Go , " he said'),
    ],
)
def test_detokenizers(rules: str, text: str, expected: str) -> None:
    assert detokenized(text, getattr(detokenizers, rules)) == expected


def test_documents_are_lines_or_records(tmp_path: Path) -> None:
    (tmp_path / "ptb.valid.txt").write_text("it 's here\n\nit is N here\n")
    write_lines(tmp_path / "ag_news" / "test.jsonl", [{"text": "One.", "label": 2}, {"text": "  ", "label": 0}])
    write_lines(tmp_path / "lambada_openai.jsonl", [{"context": "Once upon a", "continuation": " time"}])
    found = {name: list(CORPORA[name].documents(located(name, tmp_path))) for name in ("ptb", "ag_news", "lambada")}
    assert found == {"ptb": ["it's here", "it is 1 here"], "ag_news": ["One."], "lambada": ["\nOnce upon a time"]}


def test_mistakes_are_said(tmp_path: Path) -> None:
    write_lines(tmp_path / "arxiv_val.jsonl", [{"abstract": "x"}])
    with pytest.raises(UserError, match=r"arxiv_val\.jsonl:1: got no text in field 'article', has abstract"):
        list(CORPORA["arxiv"].documents(tmp_path / "arxiv_val.jsonl"))
    with pytest.raises(
        UserError, match=r"no file of this name at any depth, expected news.en.heldout\* or lm1b\*.jsonl"
    ):
        located("lm1b", tmp_path)
    with pytest.raises(UserError, match=r"--corpora: got 'c4', expected ptb or wikitext"):
        located("c4", tmp_path)


TEXTS = ["Call me Ishmael.", "Some years ago, never mind how long.", "It is a way I have."]


@pytest.mark.parametrize("length", [16, 1024])
def test_every_token_is_read_once_in_windows_of_the_length(
    length: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_model(tmp_path / "model", context=48)
    write_lines(tmp_path / "data/ag_news.jsonl", [{"text": text} for text in TEXTS])
    words = ["--corpora", "ag_news", "--data", str(tmp_path / "data"), "--length", str(length), "--modes", "ar,pll"]
    assert main(["evaluate", str(folder), *words, "--out", str(tmp_path / "out")]) == 0
    assert "ag_news" in capsys.readouterr().out
    model = dualm.load(folder)
    tokens = np.concatenate([[BOS], *(np.append(model.encode(text)[1:], EOS) for text in TEXTS)])
    for row, most in zip(written(tmp_path / "out")["results"], (min(length, 48) + 1, min(length, 48)), strict=True):
        cuts = [
            Pair(tokens[start : start + 1], tokens[start + 1 : start + most])
            for start in range(0, len(tokens), most - 1)
        ]
        whole = [pair for pair in cuts if len(pair.continuation) == most - 1]
        last = tokens[len(whole) * (most - 1) + 1 :]
        whole += [Pair(tokens[-most : len(tokens) - len(last)], last)] if len(last) else []
        nats = -sum(score.log_likelihood for score in model.score_tokens(whole, scoring(row["mode"])))
        assert row["tokens"] == len(tokens) - 1
        assert row["windows"] == math.ceil((len(tokens) - 1) / (most - 1))
        assert row["nats_per_token"] * row["tokens"] == pytest.approx(nats, rel=1e-5)
        assert row["bytes"] == sum(map(len, TEXTS))


def scoring(mode: str) -> Any:
    from dualm.likelihood.modes import Scoring

    return Scoring(mode)


def test_limit_counts_documents_and_an_empty_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = save_model(tmp_path / "model"), tmp_path / "data"
    write_lines(data / "ag_news.jsonl", [{"text": text} for text in TEXTS])
    words = ["evaluate", str(folder), "--corpora", "ag_news", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*words, "--modes", "ar", "--limit", "1"]) == 0
    assert written(tmp_path / "out")["results"][0]["tokens"] == len(TEXTS[0]) + 1
    (data / "ag_news.jsonl").write_text("\n")
    capsys.readouterr()
    assert main(words) == 2
    assert "ag_news.jsonl: the file is empty, expected documents" in one_line(capsys.readouterr().err)
