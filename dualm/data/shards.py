"""Token shards: a prepared corpus on disk, read as one long stream of tokens per split.

tokenizer.json
train-00000.npy             tokens [n], uint16 or uint32: <s> document </s> <s> document </s> …
train-00000.documents.npy   where in it each document starts [documents], int64
train-00001.npy             … a document never straddles two shards
valid-00000.npy             …
manifest.json               counts and checksums; written last, so a folder that has one is whole
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dualm.data.tokenizer import BOS, EOS, Tokenizer
from dualm.errors import UserError
from dualm.files import sha256

FORMAT = 1


class ShardWriter:
    """Writes the shards of one split as the tokens come, holding none but the last in memory."""

    def __init__(self, folder: Path, split: str, vocab: int, shard_tokens: int) -> None:
        self._folder, self._split, self._shard_tokens = folder, split, shard_tokens
        self._dtype = np.dtype(np.uint16 if vocab <= 2**16 else np.uint32)
        self._bytes = 0
        self._shards: list[dict[str, Any]] = []
        self._between_documents = True
        self._open()

    def write(self, tokens: np.ndarray, text_bytes: int, ends_document: bool = True) -> None:
        """Append tokens [n] that stand for `text_bytes` bytes of UTF-8; a document may come in several calls."""
        if self._between_documents:
            self._starts.append(self._tokens)
            self._append([BOS])
        self._append(tokens)
        self._bytes += text_bytes
        self._between_documents = ends_document
        if ends_document:
            self._append([EOS])
        if ends_document and self._tokens >= self._shard_tokens:
            self._close()
            self._open()

    def finish(self) -> dict[str, Any]:
        """Close the last shard; returns what the manifest says of this split."""
        self._close()
        counts = {key: sum(shard[key] for shard in self._shards) for key in ("documents", "tokens")}
        return {**counts, "bytes": self._bytes, "shards": self._shards}

    def _open(self) -> None:
        self._path = self._folder / f"{self._split}-{len(self._shards):05d}.npy"
        self._starts = array("q")
        self._tokens = 0
        self._file = self._path.open("wb", buffering=2**20)
        _write_header(self._file, self._dtype, 0)

    def _append(self, tokens: Sequence[int] | np.ndarray) -> None:
        self._file.write(np.asarray(tokens, dtype=self._dtype).tobytes())
        self._tokens += len(tokens)

    def _close(self) -> None:
        self._file.seek(0)
        _write_header(self._file, self._dtype, self._tokens)  # as long as before: numpy leaves room for the count
        self._file.close()
        if not self._tokens:
            return self._path.unlink()
        documents = _documents_file(self._path)
        with documents.open("wb") as file:
            _write_header(file, np.dtype(np.int64), len(self._starts))
            file.write(self._starts.tobytes())
        self._shards.append(
            {
                "file": self._path.name,
                "tokens": self._tokens,
                "documents": len(self._starts),
                "sha256": sha256(self._path),
                "documents_sha256": sha256(documents),
            }
        )


def write_manifest(folder: Path, tokenizer: Tokenizer, splits: dict[str, Any], source: dict[str, Any]) -> None:
    """Write tokenizer.json and, last of all files, manifest.json with `source`, a description of the corpus."""
    tokenizer.save(folder / "tokenizer.json")
    entry = {"sha256": tokenizer.hash, "vocab": tokenizer.vocab}
    manifest = {"format": FORMAT, "source": source, "tokenizer": entry, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


class TokenStream:
    """The tokens of one split, its shards end to end, read from disk where they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._shards = [np.load(path, mmap_mode="r") for path in paths]
        self._paths = paths
        self._borders = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return int(self._borders[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start…stop-1 [stop - start], int64. Both must lie in [0, len]."""
        assert 0 <= start <= stop <= len(self), f"[{start}, {stop}) of {len(self)} tokens"
        first = int(np.searchsorted(self._borders, start, side="right")) - 1
        parts = []
        for shard, border in zip(self._shards[first:], self._borders[first:], strict=False):
            if border >= stop:
                break
            parts.append(shard[max(start - border, 0) : stop - border])
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    @cached_property
    def documents(self) -> np.ndarray:
        """Where each document starts (at its `<s>`) in the stream [documents], int64."""
        starts = [np.load(_documents_file(path)) for path in self._paths]
        return np.concatenate([border + start for border, start in zip(self._borders, starts, strict=False)])


@dataclass(frozen=True)
class Shards:
    """An open prepared folder."""

    train: TokenStream
    valid: TokenStream
    tokenizer: Tokenizer
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> Shards:
        """Open a prepared folder; `verify` reads every file once more and compares checksums.

        Raises:
            UserError: no prepared folder, a missing, truncated or altered file, or another tokenizer's shards.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        if tokenizer.hash != manifest["tokenizer"]["sha256"]:
            raise UserError(f"{folder / 'tokenizer.json'}: the shards in this folder were made with another tokenizer")
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                _check_shard(folder, shard, verify)
        streams = {
            name: TokenStream([folder / shard["file"] for shard in split["shards"]])
            for name, split in manifest["splits"].items()
        }
        return cls(streams["train"], streams["valid"], tokenizer, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises UserError if there is none, or none of this format."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file, expected a folder of prepared shards") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged, not JSON: {error}") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: got format {manifest.get('format')}, expected {FORMAT}; prepare the corpus again")
    return manifest


def _check_shard(folder: Path, shard: dict[str, Any], verify: bool) -> None:
    tokens = folder / shard["file"]
    for path, length, checksum in (
        (tokens, shard["tokens"], shard["sha256"]),
        (_documents_file(tokens), shard["documents"], shard["documents_sha256"]),
    ):
        if not path.is_file():
            raise UserError(f"{path}: the manifest names this file, but it is missing")
        if not _has_length(path, length):
            raise UserError(f"{path}: truncated or altered, expected {length} entries")
        if verify and sha256(path) != checksum:
            raise UserError(f"{path}: altered since it was written, its sha256 is not the manifest's")


def _has_length(path: Path, length: int) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == (length,)
    except (ValueError, EOFError):
        return False


def _documents_file(shard: Path) -> Path:
    return shard.with_suffix(".documents.npy")


def _write_header(file: BinaryIO, dtype: np.dtype, length: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
