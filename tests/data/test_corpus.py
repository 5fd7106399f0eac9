"""Documents: what is read, how it is divided, and what a message says about a bad corpus."""

import json
import re

import pytest

from dualm.config import DataConfig
from dualm.data import corpus, embedded
from dualm.data.corpus import documents, labelled
from dualm.errors import UserError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def both(**keys):
    """The documents of `train`, given a validation file that is not looked at."""
    return list(documents(DataConfig(valid=["unused"], **keys), "train"))


def test_the_ways_to_cut_a_text_file(tmp_path):
    file = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \r\nthree\r\n")
    assert both(source="text", train=[file], documents="file") == ["one\ntwo\n\n \nthree\n"]
    assert both(source="text", train=[file], documents="line") == ["one", "two", "three"]
    assert both(source="text", train=[file], documents="paragraph") == ["one\ntwo", "three"]


def test_globs_are_sorted_patterns_keep_their_order_and_no_file_comes_twice(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b", "a", "deep/c"):
        write(tmp_path / f"{name}.txt", name)
    assert both(source="text", train=[str(tmp_path / "**/*.txt"), str(tmp_path / "a.txt")]) == ["a", "b", "deep/c"]
    assert both(source="text", train=[str(tmp_path / "b.txt"), str(tmp_path / "*.txt")]) == ["b", "a"]


def test_jsonl_drops_blank_and_null_and_mends_half_a_surrogate_pair(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"body": "é"}\n\n{"body": " "}\n{"body": null}\n{"body": "x\\ud800"}\n')
    assert both(source="jsonl", train=[file], field="body") == ["é", "x?"]


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    file = str(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": ["one", None, "two"]}), file)
    assert both(source="parquet", train=[file]) == ["one", "two"]
    with pytest.raises(UserError, match=r"a\.parquet: no field 'body' \(data\.field\), has id, text"):
        both(source="parquet", train=[file], field="body")
    with pytest.raises(UserError, match=r"a\.parquet: field 'id' .* int, expected text"):
        both(source="parquet", train=[file], field="id")
    with pytest.raises(UserError, match=r"b\.parquet: not readable as parquet"):
        both(source="parquet", train=[write(tmp_path / "b.parquet", "no")])


@pytest.mark.parametrize("streaming", [False, True])
def test_huggingface_folder_of_files(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    write(tmp_path / "set" / "test.jsonl", '{"text": "three"}\n')
    data = DataConfig(source="huggingface", train=[str(tmp_path / "set")], valid_split="test", streaming=streaming)
    assert list(labelled(data)) == [("train", "one"), ("train", "two"), ("valid", "three")]


def test_huggingface_saved_to_disk(tmp_path):
    import datasets

    folder = str(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["one", "two"]})}).save_to_disk(folder)
    assert both(source="huggingface", train=[folder]) == ["one", "two"]
    with pytest.raises(UserError, match=r"has no split 'dev', expected one of train"):
        both(source="huggingface", train=[folder], split="dev")
    with pytest.raises(UserError, match=r"split train, row 0: no field 'body'"):
        both(source="huggingface", train=[folder], field="body")
    with pytest.raises(UserError, match=r"cannot load '.*/absent', split 'train'"):
        both(source="huggingface", train=[str(tmp_path / "absent")])


# ---------------------------------------------------------------- prompts and responses

PAIRS = [("ask", " one"), ("", "two"), ("say || it", "three")]
RECORDS = [{"prompt": prompt, "response": response, "id": 1} for prompt, response in PAIRS]


def pairs(source, file, **keys):
    return list(corpus.read(DataConfig(format="pairs", source=source, train=[file], **keys), "train"))


def test_pairs_of_text_are_divided_at_the_first_separator(tmp_path):
    file = write(tmp_path / "a.txt", "ask|| one\n\n||two\r\nsay|| || it\nno response|| \n")
    assert pairs("text", file) == [("ask", " one"), ("", "two"), ("say", " || it")]
    assert pairs("text", write(tmp_path / "b.txt", "a\tb||c\n"), separator="\t") == [("a", "b||c")]


def test_pairs_of_every_source_agree(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines = write(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in RECORDS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert pairs("jsonl", lines) == PAIRS
    assert pairs("parquet", str(tmp_path / "a.parquet")) == PAIRS
    named = write(tmp_path / "b.jsonl", '{"question": "q", "answer": "a"}\n{"question": "q", "answer": null}\n')
    assert pairs("jsonl", named, prompt_field="question", response_field="answer") == [("q", "a")]


def test_pairs_of_a_hugging_face_data_set(tmp_path):
    import datasets

    datasets.Dataset.from_list(RECORDS).save_to_disk(str(tmp_path / "saved"))
    assert pairs("huggingface", str(tmp_path / "saved")) == PAIRS


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("text", "a||b\n\na b\n", r"x:3: no '\|\|' \(data\.separator\) between a prompt and its response"),
        ("jsonl", '{"prompt": "a"}\n', r"x:1: no field 'response' \(data\.response_field\), has prompt"),
        (
            "jsonl",
            '{"text": "a", "response": "b"}\n',
            r"x:1: no field 'prompt' \(data\.prompt_field\), has text, response",
        ),
        ("jsonl", '{"prompt": "a", "response": 3}\n', r"x:1: field 'response' \(data\.response_field\) holds int"),
    ],
)
def test_mistakes_in_pairs_are_named(tmp_path, source, content, message):
    with pytest.raises(UserError, match=message):
        pairs(source, write(tmp_path / "x", content))


def test_the_embedded_corpus_has_no_pairs():
    with pytest.raises(UserError, match=r"data\.source: got 'embedded' with data\.format: pairs"):
        list(documents(DataConfig(format="pairs"), "train"))


def test_the_division_keeps_a_prompt_with_all_its_responses(tmp_path):
    file = write(tmp_path / "a.txt", "".join(f"question {i % 100}||answer {i}\n" for i in range(300)))
    data = DataConfig(format="pairs", source="text", train=[file], valid_fraction=0.3)
    sides = list(labelled(data))
    prompts, responses = sides[::2], sides[1::2]
    assert [text for _, text in responses] == [f"answer {i}" for i in range(300)]
    assert [split for split, _ in prompts] == [split for split, _ in responses]
    both_splits = ({text for side, text in prompts if side == split} for split in corpus.SPLITS)
    assert not set.intersection(*both_splits)
    for split in corpus.SPLITS:
        assert list(documents(data, split)) == [text for side, text in sides if side == split]


# ---------------------------------------------------------------- train and valid


def lines(tmp_path, texts, **keys):
    file = write(tmp_path / "lines.txt", "\n".join(texts))
    return DataConfig(source="text", documents="line", train=[file], **keys)


def test_division_is_complete_near_the_fraction_and_independent_of_the_order(tmp_path):
    texts = [f"document {i}" for i in range(2000)]
    data = lines(tmp_path, texts, valid_fraction=0.1)
    train, valid = (list(documents(data, split)) for split in corpus.SPLITS)
    assert sorted(train + valid) == sorted(texts)
    assert 150 < len(valid) < 250
    assert list(labelled(data)) == [("valid" if text in set(valid) else "train", text) for text in texts]
    assert set(documents(lines(tmp_path, texts[::-1], valid_fraction=0.1), "valid")) == set(valid)


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_a_small_corpus_leaves_neither_side_empty(tmp_path, fraction):
    data = lines(tmp_path, ["a", "b", "c"], valid_fraction=fraction)
    assert {split for split, _ in labelled(data)} == {"train", "valid"}
    assert len(list(labelled(data))) == 3


def test_a_single_document_cannot_be_divided(tmp_path):
    with pytest.raises(UserError, match=r"a single document.*data\.valid, or data\.documents: paragraph"):
        list(labelled(lines(tmp_path, ["alone", "alone"])))


def test_given_validation_files_are_used(tmp_path):
    data = lines(tmp_path, ["a", "b"], valid=[write(tmp_path / "valid.txt", "c\nd")])
    assert list(labelled(data)) == [("train", "a"), ("train", "b"), ("valid", "c"), ("valid", "d")]


# ---------------------------------------------------------------- a user's mistakes


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("text", b"", r"x: the file is empty \(data.train\)"),
        ("text", b"first\nab\xffcd", r"x: not UTF-8 at byte 8"),
        ("jsonl", b'{"text": "a"}\n{"body": "b", "id": 1}\n', r"x:2: no field 'text' \(data.field\), has body, id"),
        ("jsonl", b'{"text": "a"}\n\n{"text": \n', r"x:3: not JSON: "),
        ("jsonl", b'["a"]\n', r"x:1: got a JSON list, expected an object"),
        ("jsonl", b'{"text": 3}\n', r"x:1: field 'text' \(data.field\) holds int, expected text"),
        ("textt", b"a", r"data.source: got 'textt', expected embedded or text or jsonl or parquet or huggingface"),
    ],
)
def test_mistakes_are_named(tmp_path, source, content, message):
    with pytest.raises(UserError, match=message):
        both(source=source, train=[write(tmp_path / "x", content)])


def test_a_pattern_without_a_match(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"data.valid: no file matches '{tmp_path}/*.txt'")):
        list(documents(DataConfig(source="text", valid=[f"{tmp_path}/*.txt"]), "valid"))


def test_files_without_a_source_are_not_ignored():
    with pytest.raises(UserError, match=r"data.source: got 'embedded' with files \['a.txt'\].*text, jsonl"):
        list(documents(DataConfig(train=["a.txt"]), "train"))


# ---------------------------------------------------------------- what a corpus is read from


def test_inventory_tells_a_changed_file(tmp_path):
    data = lines(tmp_path, ["a", "b"])
    before = corpus.inventory(data)
    assert json.loads(json.dumps(before)) == before
    write(tmp_path / "lines.txt", "a\nbc")
    assert corpus.inventory(data) != before


def test_embedded_corpus():
    texts = embedded.documents()
    assert len(texts) > 300
    assert sum(map(len, texts)) > 1_000_000
    assert len(set(texts)) == len(texts)
    assert any('The "while" statement\n' in text for text in texts)
    assert {split for split, _ in labelled(DataConfig())} == {"train", "valid"}
