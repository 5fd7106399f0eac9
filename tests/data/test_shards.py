"""Shards: what was written is what is read, across borders, and damage is refused by file name."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualm.data.shards import Shards, ShardWriter, write_manifest
from dualm.data.tokenizer import BOS, EOS, byte_tokenizer, train_chars
from dualm.errors import UserError

TEXTS = ["one", "two is longer than a shard", "é", "four", "five"]


def write(folder, texts=TEXTS, shard_tokens=8):
    tokenizer = byte_tokenizer()
    splits = {}
    for split in ("train", "valid"):
        writer = ShardWriter(folder, split, tokenizer.vocab, shard_tokens)
        for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
            writer.write(tokens, len(text.encode()))
        splits[split] = writer.finish()
    write_manifest(folder, tokenizer, splits, source={})
    return np.concatenate([[BOS, *tokens, EOS] for tokens in tokenizer.encode(texts)])


def test_documents_are_packed_and_stay_whole(tmp_path):
    expected = write(tmp_path)
    shards = Shards.open(tmp_path)
    assert shards.train.read(0, len(shards.train)).tolist() == expected.tolist()
    assert shards.train.read(3, 3).size == 0
    assert shards.train.documents.tolist() == np.flatnonzero(expected == BOS).tolist()
    sizes = [shard["tokens"] for shard in shards.manifest["splits"]["train"]["shards"]]
    assert sizes == [5 + 28, 4 + 6, 6]  # each closed by the document that took it to 8 tokens or more
    for shard in shards.manifest["splits"]["train"]["shards"]:
        tokens = np.load(tmp_path / shard["file"])
        assert tokens.dtype == np.uint16
        assert (tokens[0], tokens[-1]) == (BOS, EOS)
    counts = shards.manifest["splits"]["train"]
    assert (counts["documents"], counts["tokens"]) == (len(TEXTS), len(expected))
    assert counts["bytes"] == len("".join(TEXTS).encode())


@given(data=st.data())
def test_reads_are_slices_of_the_concatenation(tmp_path_factory, data):
    texts = data.draw(st.lists(st.text(min_size=1), min_size=1, max_size=8))
    folder = tmp_path_factory.mktemp("shards")
    expected = write(folder, texts, shard_tokens=data.draw(st.integers(1, 40)))
    stream = Shards.open(folder, verify=False).train
    start, stop = sorted(data.draw(st.integers(0, len(expected))) for _ in range(2))
    assert stream.read(start, stop).dtype == np.int64
    assert stream.read(start, stop).tolist() == expected[start:stop].tolist()
    assert len(stream) == len(expected)


def test_a_document_written_in_pieces_is_one_document(tmp_path):
    writer = ShardWriter(tmp_path, "train", vocab=2**16 + 1, shard_tokens=2)
    writer.write(np.array([70_000, 20]), 2, ends_document=False)
    writer.write(np.array([21]), 1)
    counts = writer.finish()
    assert (counts["documents"], counts["tokens"], counts["bytes"]) == (1, 5, 3)
    assert len(counts["shards"]) == 1  # and no empty shard after the one that was full
    assert np.load(tmp_path / "train-00000.npy").tolist() == [BOS, 70_000, 20, 21, EOS]
    assert not (tmp_path / "train-00001.npy").exists()


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train-00001.npy", "valid-00000.documents.npy"])
def test_damage_is_refused_by_name(tmp_path, name):
    write(tmp_path)
    whole = (tmp_path / name).read_bytes()
    flip_last_byte(tmp_path / name)
    Shards.open(tmp_path, verify=False)
    with pytest.raises(UserError, match=rf"{name}: altered"):
        Shards.open(tmp_path)
    for content in (whole[:-1], whole[:20], b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: truncated"):
            Shards.open(tmp_path, verify=False)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: .*missing"):
        Shards.open(tmp_path, verify=False)


def test_another_tokenizer_is_refused(tmp_path):
    write(tmp_path)
    train_chars(["abc"]).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json: .*made with another tokenizer"):
        Shards.open(tmp_path)


def test_no_manifest_and_manifests_of_another_kind(tmp_path):
    write(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for content, message in ((json.dumps(manifest | {"format": 99}), "got format 99"), ("{", "damaged, not JSON")):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"manifest\.json: {message}"):
            Shards.open(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        Shards.open(tmp_path)


def test_shards_hold_documents_back_to_back(tmp_path):
    write(tmp_path)
    stream = Shards.open(tmp_path).valid
    borders = [*stream.documents.tolist(), len(stream)]
    tokenizer = byte_tokenizer()
    assert [tokenizer.decode(stream.read(*ends)) for ends in pairwise(borders)] == TEXTS
