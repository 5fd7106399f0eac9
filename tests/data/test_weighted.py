"""Weighted sources: what `data.train` may list, and what a run on several texts writes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dualm.config import DataConfig, load
from dualm.data import prepare as preparing
from dualm.data.prepare import prepare
from dualm.data.shards import Shards
from dualm.data.weighted import weighted_sources
from dualm.errors import UserError
from tests.corpus import write_corpus
from tests.forked import run


def test_one_source_is_what_it_was() -> None:
    data = DataConfig(train=["a.txt", "b.txt"], repetitions=3)
    (source,) = weighted_sources(data)
    assert (source.name, source.data, source.share, source.repetitions) == (None, data, 1, 3)


def test_weights_are_shares_and_the_rest_has_defaults() -> None:
    train = [
        {"files": "texts/wiki.txt", "weight": 0.3},
        {"files": ["a.txt", "b.txt"], "weight": 0.6, "repetitions": 4, "name": "speech", "valid": "v.txt"},
    ]
    wiki, speech = weighted_sources(DataConfig(train=train, repetitions=2))
    assert (wiki.name, wiki.share, wiki.repetitions, wiki.data.train) == ("wiki", Fraction(1, 3), 2, ["texts/wiki.txt"])
    assert (speech.name, speech.share, speech.repetitions) == ("speech", Fraction(2, 3), 4)
    assert (speech.data.train, speech.data.valid) == (["a.txt", "b.txt"], ["v.txt"])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["a.txt", {"files": "b.txt", "weight": 1}], "got 'a.txt', expected a mapping like the other entries"),
        ([{"files": "a.txt"}], "expected `weight`: a number above 0"),
        ([{"files": "a.txt", "weight": 0}], "expected `weight`"),
        ([{"files": "a.txt", "weight": True}], "expected `weight`"),
        ([{"weight": 1}], "expected `files`"),
        ([{"files": [1], "weight": 1}], "expected `files`"),
        ([{"files": "a.txt", "weight": 1, "repetitions": 0}], "expected `repetitions`: an integer above 0"),
        ([{"files": "a.txt", "weight": 1, "repetition": 4}], "not repetition"),
        ([{"files": "a.txt", "weight": 1, "name": "a/b"}], "expected `name`"),
        ([{"files": "x/a.txt", "weight": 1}, {"files": "y/a.txt", "weight": 1}], r"not \['a'\] twice; give `name`"),
    ],
)
def test_a_bad_entry_is_named(train: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"data\.train: .*{message}"):
        weighted_sources(DataConfig(train=train))


def test_validation_stands_in_the_sources() -> None:
    train = [{"files": "a.txt", "weight": 1}]
    with pytest.raises(UserError, match=r"data\.valid: got \['v.txt'\], expected none beside weighted sources"):
        weighted_sources(DataConfig(train=train, valid=["v.txt"]))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "old.txt", 60)
    words = " ".join(f"new{number % 7}" for number in range(9))
    (tmp_path / "new.txt").write_text("\n\n".join(f"{words} {number}" for number in range(80)))
    (tmp_path / "recipe.yaml").write_text(
        """
run: {dir: run}
data:
  source: text
  documents: paragraph
  train: [{files: old.txt, weight: 3}, {files: new.txt, weight: 1, repetitions: 2}]
  tokenizer: chars
  dir: shards
model: {layers: 1, hidden: 16, heads: 2, ffn: 24, context: 16, vocab: 64}
train: {steps: 12, global_batch: 8, micro_batch: 2}
validate: {windows: 8, sample_tokens: 0}
"""
    )
    return tmp_path / "recipe.yaml"


def test_sources_are_told_apart_in_the_shards(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = load(recipe)
    shards = Shards.open(prepare(made.data, made.model.vocab))
    for split in ("train", "valid"):
        parts = [shards.stream(split, name) for name in ("old", "new")]
        assert sum(map(len, parts)) == len(shards.stream(split))
        text = [shards.tokenizer.decode(part.read(0, len(part))) for part in parts]
        assert "new" not in text[0]
        assert "sea" not in text[1]
        assert shards.counts(split, "new")["documents"] == parts[1].document_count
    again = load(recipe, ["data.train=[{files: old.txt, weight: 1}, {files: new.txt, weight: 1}]"])
    capsys.readouterr()
    prepare(again.data, again.model.vocab)  # other weights, the same shards
    assert "used again" in capsys.readouterr().err
    assert preparing.prepared(again.data, again.model.vocab) == Path("shards").resolve()


def test_training_reads_each_source_and_reports_on_each(recipe: Path) -> None:
    done = run(["train", "recipe.yaml"], recipe.parent)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (recipe.parent / "run/metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    for metric in ("ar_nll", "md_nelbo", "prefix_nll", "ar_bpb", "ar_nll_se"):
        found = {name: last[f"valid/{name}/{metric}"] for name in ("old", "new")}
        assert found["old"] != found["new"]
    assert min(found := [last[f"valid/{name}/ar_nll"] for name in ("old", "new")]) < last["valid/ar_nll"] < max(found)
    record = json.loads((recipe.parent / "run/data.json").read_text())
    assert [(one["source"], one["unit"], one["tokens"]) for one in record["sources"]] == [
        ("old", "chunks", 72 * 16),
        ("new", "chunks", 12 * 16),
    ]
    assert f"unique data: old: 1,152 of {record['sources'][0]['of_tokens']:,} tokens in chunks" in done.stderr
    shown = run(["show", "run"], recipe.parent).stdout
    assert all(f"{name}: AR NLL, causal" in shown for name in ("old", "new"))
    planned = run(["plan", "recipe.yaml"], recipe.parent)
    assert "old: 1,152 of" in planned.stdout
