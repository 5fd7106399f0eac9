"""Units: a nested random subset of the whole corpus, whatever the order of the files, in 8 bytes a unit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualm.data import units
from dualm.data.shards import TokenStream
from dualm.data.tokenizer import BOS, EOS
from dualm.data.units import UNITS, Cut, documents_in, lowest
from tests.data.streams import documents, write

anew = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def everything(cut: Cut) -> list[tuple[int, int]]:
    """(start, stop) of all units in the order of the stream."""
    return [pair for block in cut.blocks() for pair in zip(block.starts.tolist(), block.stops.tolist(), strict=True)]


def texts(stream: TokenStream, cut: Cut, starts: np.ndarray) -> list[list[int]]:
    found = cut.at(starts)
    return [stream.read(start, stop).tolist() for start, stop in zip(found.starts, found.stops, strict=True)]


@pytest.mark.parametrize("unit", UNITS)
@anew
@given(lengths, st.integers(1, 30), st.integers(1, 20))
def test_units_divide_the_stream(unit: str, tmp_path: Path, lengths: list[int], chunk: int, context: int) -> None:
    stream = write(tmp_path / str(hash((tuple(lengths), chunk))), documents(lengths))
    cut = UNITS[unit](stream, chunk, context)
    found = everything(cut)
    edges = [0, *(stop for _, stop in found)]
    assert [start for start, _ in found] == edges[:-1]  # end to end
    assert edges[-1] == len(stream) or (unit == "windows" and len(stream) - edges[-1] < context)
    again = cut.at(np.array(edges[:-1], np.int64))
    assert list(zip(again.starts.tolist(), again.stops.tolist(), strict=True)) == found
    sizes = np.diff(edges)
    if unit == "windows":
        assert set(sizes) <= {context}
        return
    borders = set(stream.documents.tolist())
    assert borders <= set(edges)  # no unit straddles a document
    if unit == "documents":
        assert len(found) == len(lengths)
    else:
        assert sizes.max() <= chunk
        for first, last in zip(sorted(borders), [*sorted(borders)[1:], len(stream)], strict=True):
            inside = [stop - start for start, stop in found if first <= start < last]
            assert max(inside) - min(inside) <= 1  # equal pieces


@pytest.mark.parametrize("unit", UNITS)
@anew
@given(lengths, st.integers(0, 9), st.floats(0.01, 1))
def test_the_subset_is_the_beginning_of_one_order(
    unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int], seed: int, share: float
) -> None:
    monkeypatch.setattr(units, "BUCKET", 3)
    monkeypatch.setattr(units, "DOCUMENTS_AT_ONCE", 4)
    stream = write(tmp_path / str(hash((tuple(lengths), seed))), documents(lengths))
    cut = UNITS[unit](stream, 7, 5)
    found = everything(cut)
    if not found:
        return
    starts = np.array([start for start, _ in found])
    whole = starts[np.argsort(cut.at(starts).keys(seed), kind="stable")]
    sizes = np.cumsum([dict(found)[start] - start for start in whole.tolist()])
    wanted = max(1, int(share * sizes[-1]))
    subset = lowest(cut, seed, wanted)
    assert subset.tolist() == whole[: len(subset)].tolist()
    assert sizes[len(subset) - 1] >= wanted > (sizes[len(subset) - 2] if len(subset) > 1 else 0)


@pytest.mark.parametrize("unit", ["chunks", "documents"])
def test_neither_files_nor_their_order_matter(unit: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = documents(rng.integers(1, 50, 60).tolist())
    chosen = []
    for number in range(3):
        order = rng.permutation(len(whole))
        stream = write(tmp_path / str(number), [whole[place] for place in order], shard_tokens=30 * (number + 1))
        cut = UNITS[unit](stream, 8, 4)
        chosen.append(texts(stream, cut, lowest(cut, 3, 400)))
    assert chosen[0] == chosen[1] == chosen[2]
    other = texts(stream, cut, lowest(cut, 4, 400))
    assert other != chosen[0]  # another seed, another subset


def test_every_part_of_the_corpus_is_drawn_from(tmp_path: Path) -> None:
    """No file is more likely than another: over seeds each half of the stream gives half of the subset."""
    stream = write(tmp_path, documents([30] * 400), shard_tokens=10**6)
    cut = UNITS["documents"](stream, 0, 0)
    shares = [np.mean(lowest(cut, seed, 32 * 40) < len(stream) // 2) for seed in range(200)]
    # 40 of 400 documents without replacement: standard deviation sqrt(0.25 / 40 * 360 / 399) of one share.
    error = np.sqrt(0.25 / 40 * 360 / 399 / len(shares))
    assert abs(np.mean(shares) - 0.5) < 4 * error
    assert 0.8 < np.std(shares) / np.sqrt(0.25 / 40 * 360 / 399) < 1.2  # as spread as random draws are


@pytest.mark.parametrize("unit", UNITS)
@anew
@given(lengths, st.integers(0, 5), st.floats(0.01, 1))
def test_documents_are_counted(unit: str, tmp_path: Path, lengths: list[int], seed: int, share: float) -> None:
    stream = write(tmp_path / str(hash((tuple(lengths), share))), documents(lengths))
    cut = UNITS[unit](stream, 7, 5)
    if not everything(cut):
        return
    tokens = sum(stop - start for start, stop in everything(cut))
    chosen = lowest(cut, seed, max(1, int(share * tokens)))
    found = cut.at(chosen)
    owner = np.repeat(np.arange(len(lengths)), np.diff([*stream.documents, len(stream)]))
    used = {number for start, stop in zip(found.starts, found.stops, strict=True) for number in owner[start:stop]}
    assert documents_in(cut, seed, chosen[-1:], stream) == len(used)


def test_copies_are_in_the_subset_together(tmp_path: Path) -> None:
    copied = documents([20] * 50)
    stream = write(tmp_path, [copied[0], *copied, copied[0]], shard_tokens=10**6)
    cut = UNITS["documents"](stream, 0, 0)
    for seed in range(20):
        chosen = [text[1] for text in texts(stream, cut, lowest(cut, seed, 22 * 26))]
        assert chosen[:-1].count(16) in (0, 3) or chosen[-1] == 16  # the last unit may be the first of the copies


def test_memory_is_eight_bytes_a_unit(tmp_path: Path) -> None:
    count = 4_000_000
    tokens = np.tile(np.array([BOS, 16, EOS], np.uint16), count)
    np.save(tmp_path / "train-00000.npy", tokens)
    np.save(tmp_path / "train-00000.documents.npy", np.arange(count) * 3)
    np.save(tmp_path / "train-00000.digests.npy", np.arange(count, dtype=np.uint64))
    del tokens
    stream = TokenStream([tmp_path / "train-00000.npy"])
    cut = UNITS["documents"](stream, 0, 0)
    tracemalloc.start()
    chosen = lowest(cut, 0, len(stream))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chosen) == count
    assert peak < 8 * count + 12e6  # the starts, and some blocks
