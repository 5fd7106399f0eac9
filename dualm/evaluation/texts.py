"""The texts and JSON Lines that evaluation reads.

They are read as corpora are: UTF-8 with or without byte order mark, lines that end in \\n or \\r\\n.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualm.data.corpus import TEXT_DOCUMENTS, json_object
from dualm.errors import UserError


def read_text(path: Path) -> str:
    """A whole text. Raises UserError if it is missing, empty or not UTF-8."""
    text = "".join(TEXT_DOCUMENTS["file"](_existing(path)))
    if not text:
        raise UserError(f"{path}: the file is empty, expected a text")
    return text


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of each line that is not blank. Raises UserError if the file is missing or not UTF-8."""
    for number, line in enumerate(TEXT_DOCUMENTS["line"](_existing(path)), start=1):
        if line.strip():
            yield number, line


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line of a JSON Lines file. Raises UserError as `read_lines`, and for a line that is no object."""
    for number, line in read_lines(path):
        position = f"{path}:{number}"
        yield position, json_object(line, position)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path
