"""Files that are whole or not there: atomic writes, locks, sync to disk, checksums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees a part of it."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; nan becomes null."""
    write_text(path, json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The hidden name to write a file under, which takes the place of `path` when the block ends without an error."""
    partial = hidden(path, str(os.getpid()))
    try:
        yield partial
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden empty folder, which takes the place of `folder` when the block ends without an error.

    What a killed process left of an earlier attempt is cleared first.
    """
    partial = hidden(folder, "partial")
    remove(partial)
    try:
        partial.mkdir(parents=True)
        yield partial
        publish(partial, folder)
    finally:
        remove(partial)


def publish(partial: Path, folder: Path) -> None:
    """Let a finished folder take the place of `folder`, once all of it is on disk."""
    replaced = hidden(folder, "replaced")
    remove(replaced)
    sync(*partial.rglob("*"), partial)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    sync(folder.parent)
    remove(replaced)


def hidden(path: Path, state: str) -> Path:
    """The name of `path` while it is in some `state`: a dot file beside it."""
    return path.with_name(f".{path.name}.{state}")


def remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def sync(*paths: Path) -> None:
    """Force files and folder entries to disk, so that a rename never gets there before what it names."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def lock(path: Path, wait: bool = False) -> int | None:
    """Be the only process to hold the lock file `path`: the descriptor that holds it until it is closed.

    None if another process holds it; with `wait`, that one's end is waited for.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """A nest of dicts and sequences as JSON can hold it: nan becomes null, a path its text."""
    if isinstance(value, dict):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value
