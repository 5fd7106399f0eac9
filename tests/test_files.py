"""Files are whole or not there, and locks hold."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from dualm import files


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def break_off(path: Path) -> None:
    path.write_text("half of the n")
    raise RuntimeError


def write_in_part(path: Path) -> None:
    with files.replacing(path) as partial:
        break_off(partial)


def fill_in_part(folder: Path) -> None:
    with files.whole_folder(folder) as partial:
        assert listed(partial) == []
        break_off(partial / "a")


def test_a_text_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("old", "new ✓"):
        files.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert listed(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_in_part(path)
    assert path.read_text() == "old"
    assert listed(tmp_path) == ["a.txt"]


def test_json_holds_null_for_nan_and_texts_for_paths(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"loss": [1.5, math.nan], 3: Path("x/y")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": [1.5, None], "3": "x/y"}


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for content in ("old", "new"):
        with files.whole_folder(folder) as partial:
            (partial / "deep").mkdir()
            (partial / "deep/a").write_text(content)
            assert not folder.exists() or (folder / "deep/a").read_text() == "old"
        assert (folder / "deep/a").read_text() == content
    assert listed(tmp_path) == ["run"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").write_text("old")
    leftover = files.hidden(folder, "partial")
    leftover.mkdir()
    (leftover / "of a killed process").touch()
    with pytest.raises(RuntimeError):
        fill_in_part(folder)
    assert (folder / "a").read_text() == "old"
    assert listed(tmp_path) == ["run"]


def test_one_holder_of_a_lock_at_a_time(tmp_path: Path) -> None:
    held = files.lock(tmp_path / "lock")
    assert held is not None
    assert files.lock(tmp_path / "lock") is None
    os.close(held)
    again = files.lock(tmp_path / "lock", wait=True)
    assert again is not None
    os.close(again)
