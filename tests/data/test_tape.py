"""Tapes: the subset in exactly so many tokens, and every token once in an epoch, in any number of blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualm.data import tape
from dualm.data.tape import Pieces, Ring, Shuffled
from dualm.data.units import UNITS
from tests.data.streams import documents, write

anew = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(params=["one block", "many blocks"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few units a block, what happens with a billion of them happens with forty."""
    if request.param == "many blocks":
        monkeypatch.setattr(tape, "BLOCK", 3)
        monkeypatch.setattr(tape, "SHUFFLED", 5)
        monkeypatch.setattr(tape, "KEPT", 2)


def ring(folder: Path, tokens: int, count: int = 40, chunk: int = 9) -> Ring:
    stream = write(folder / f"{count}", documents([5 + 3 * (number % 7) for number in range(count)]))
    return Ring(UNITS["chunks"](stream, chunk, 4), stream, 0, tokens)


def read(found: Pieces, whole: Ring) -> list[int]:
    return whole.stream.gather(found.starts, found.stops).tolist()


@pytest.mark.usefixtures("sizes")
@anew
@given(st.integers(1, 600), st.integers(0, 2000), st.integers(1, 900))
def test_a_ring_is_cyclic_and_exact(tmp_path: Path, tokens: int, start: int, count: int) -> None:
    whole = ring(tmp_path, min(tokens, 600))
    assert len(whole) == tokens
    once = read(whole.cut(0, tokens), whole)
    assert len(once) == tokens
    expected = [once[place % tokens] for place in range(start, start + count)]
    assert read(whole.cut(start, start + count), whole) == expected


@pytest.mark.usefixtures("sizes")
def test_a_smaller_ring_begins_a_larger_one(tmp_path: Path) -> None:
    small, large = ring(tmp_path, 150), ring(tmp_path, 600)
    assert read(large.cut(0, 150), large) == read(small.cut(0, 150), small)


@pytest.mark.usefixtures("sizes")
@anew
@given(st.integers(0, 600), st.integers(1, 600), st.integers(0, 99))
def test_shuffling_an_arc_keeps_its_tokens(tmp_path: Path, start: int, count: int, seed: int) -> None:
    whole = ring(tmp_path, 600)
    shuffled = Shuffled(whole, start, count, np.random.default_rng(seed))
    arc = read(whole.cut(start, start + count), whole)
    assert len(shuffled) == count
    assert sorted(read(shuffled.cut(0, count), whole)) == sorted(arc)
    assert read(shuffled.cut(7, 7 + count), whole) == read(shuffled.cut(7, 7 + count), whole)


@pytest.mark.usefixtures("sizes")
def test_shuffling_gives_every_unit_every_place(tmp_path: Path) -> None:
    whole = ring(tmp_path, 600)
    first = {int(Shuffled(whole, 0, 600, np.random.default_rng(seed)).cut(0, 1).starts[0]) for seed in range(600)}
    assert len(first) > 0.8 * len(whole.units)


def test_a_window_numbers_its_pieces(tmp_path: Path) -> None:
    whole = ring(tmp_path, 600)
    window = whole.window(590, 32)
    pieces = whole.cut(590, 590 + 33)
    assert window.tokens.tolist() == read(pieces, whole)
    for number, (start, stop) in enumerate(zip(pieces.starts, pieces.stops, strict=True)):
        assert window.tokens[window.pieces == number].tolist() == whole.stream.read(start, stop).tolist()
        assert len(set(window.documents[window.pieces == number])) == 1
    assert len(set(window.documents)) == len(pieces.starts)
