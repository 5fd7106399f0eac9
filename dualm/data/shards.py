"""Token shards: a prepared corpus on disk, read as one long stream of tokens per split.

tokenizer.json
train-00000.npy             tokens [n], uint16 or uint32: <s> document </s> <s> document </s> …
train-00000.documents.npy   where in it each document starts [documents], int64
train-00000.digests.npy     a hash of each document's tokens [documents], uint64: its identity, wherever it stands
train-00001.npy             … a document never straddles two shards
valid-00000.npy             …
manifest.json               counts and checksums; written last, so a folder that has one is whole
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dualm.data.tokenizer import BOS, EOS, Tokenizer
from dualm.errors import UserError
from dualm.files import sha256

FORMAT = 1


class ShardWriter:
    """Writes the shards of one split as the tokens come, a document at a time; nothing of them stays in memory.

    `name` is that of the split, and where it has several sources of the source: the beginning of the files' names.
    """

    def __init__(self, folder: Path, name: str, vocab: int, shard_tokens: int, document_end: bool = True) -> None:
        self._folder, self._name, self._shard_tokens, self._document_end = folder, name, shard_tokens, document_end
        self._dtype = np.dtype(np.uint16 if vocab <= 2**16 else np.uint32)
        self._bytes = 0
        self._shards: list[dict[str, Any]] = []
        self._between_documents = True
        self._open()

    def write(self, tokens: np.ndarray, text_bytes: int, ends_document: bool = True) -> None:
        """Append tokens [n] that stand for `text_bytes` bytes of UTF-8; a document may come in several calls."""
        if self._between_documents:
            self._starts.append(self._tokens)
            self._digest = _hash()
            self._append([BOS])
        self._append(tokens)
        self._digest.update(_as_bytes(tokens))
        self._bytes += text_bytes
        self._between_documents = ends_document
        if ends_document:
            self._append([EOS] if self._document_end else [])
            self._digests.append(_number(self._digest))
        if ends_document and self._tokens >= self._shard_tokens:
            self._close()
            self._open()

    def finish(self) -> dict[str, Any]:
        """Close the last shard; returns what the manifest says of this split."""
        self._close()
        counts = {key: sum(shard[key] for shard in self._shards) for key in ("documents", "tokens")}
        return {**counts, "bytes": self._bytes, "shards": self._shards}

    def _open(self) -> None:
        self._path = self._folder / f"{self._name}-{len(self._shards):05d}.npy"
        self._starts, self._digests = array("q"), array("Q")
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
        documents, digests = _documents_file(self._path), _digests_file(self._path)
        np.save(documents, np.frombuffer(self._starts, np.int64))
        np.save(digests, np.frombuffer(self._digests, np.uint64))
        self._shards.append(
            {
                "file": self._path.name,
                "tokens": self._tokens,
                "documents": len(self._starts),
                "sha256": sha256(self._path),
                "documents_sha256": sha256(documents),
                "digests_sha256": sha256(digests),
            }
        )


def _hash() -> Any:
    return hashlib.blake2b(digest_size=8)


def _number(digest: Any) -> int:
    return int.from_bytes(digest.digest(), "little")


def _as_bytes(tokens: Sequence[int] | np.ndarray) -> bytes:
    """The same for the same tokens, whatever the type that they are stored in."""
    return np.asarray(tokens, dtype="<u4").tobytes()


def write_manifest(folder: Path, tokenizer: Tokenizer, splits: dict[str, Any], source: dict[str, Any]) -> None:
    """Write tokenizer.json and, last of all files, manifest.json with `source`, a description of the corpus."""
    tokenizer.save(folder / "tokenizer.json")
    entry = {"sha256": tokenizer.hash, "vocab": tokenizer.vocab}
    manifest = {"format": FORMAT, "source": source, "tokenizer": entry, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


class Documents(NamedTuple):
    """Some documents of a stream, `[documents]` each: where they start (at their `<s>`) and stop, and their digests."""

    starts: np.ndarray
    stops: np.ndarray
    digests: np.ndarray


class TokenStream:
    """The tokens of one split, its shards end to end, read from disk where they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._shards = [np.load(path, mmap_mode="r") for path in paths]
        self._starts = [np.load(_documents_file(path), mmap_mode="r") for path in paths]
        self._borders = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return int(self._borders[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start…stop-1 [stop - start], int64. Both must lie in [0, len]."""
        return self.gather(np.array([start]), np.array([stop]))

    def gather(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """The tokens of pieces `[n]`, end to end, int64."""
        parts = [
            part
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
            for part in self._parts(start, stop)
        ]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def _parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
        assert 0 <= start <= stop <= len(self), f"[{start}, {stop}) of {len(self)} tokens"
        number = int(np.searchsorted(self._borders, start, side="right")) - 1
        while start < stop:
            border = int(self._borders[number])
            part = self._shards[number][start - border : stop - border]
            yield part
            start, number = start + len(part), number + 1

    @property
    def document_count(self) -> int:
        return sum(map(len, self._starts))

    @cached_property
    def documents(self) -> np.ndarray:
        """Where each document starts (at its `<s>`) in the stream [documents], int64."""
        return np.concatenate([border + start for border, start in zip(self._borders, self._starts, strict=False)])

    def document_blocks(self, most: int) -> Iterator[Documents]:
        """All documents in their order, at most `most` at a time, so that they need not all be in memory."""
        for shard in range(len(self._shards)):
            for first in range(0, len(self._starts[shard]), most):
                yield self._some(shard, np.arange(first, min(first + most, len(self._starts[shard]))))

    def documents_at(self, positions: np.ndarray) -> Documents:
        """The document that each of `positions` `[n]` of the stream lies in."""
        found = Documents(*(np.empty(len(positions), dtype) for dtype in (np.int64, np.int64, np.uint64)))
        for shard, here, numbers in self._by_shard(positions):
            for whole, part in zip(found, self._some(shard, numbers), strict=True):
                whole[here] = part
        return found

    def document_numbers(self, positions: np.ndarray) -> np.ndarray:
        """The number of the document that each of `positions` `[n]` of the stream lies in, counted from 0."""
        found = np.empty(len(positions), np.int64)
        for shard, here, numbers in self._by_shard(positions):
            found[here] = sum(map(len, self._starts[:shard])) + numbers
        return found

    def _by_shard(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each shard which of `positions` lie in it, and the numbers of their documents there."""
        shards = np.searchsorted(self._borders, positions, side="right") - 1
        for shard in np.flatnonzero(np.bincount(shards)).tolist():
            here = np.flatnonzero(shards == shard)
            inside = positions[here] - self._borders[shard]
            yield shard, here, np.searchsorted(self._starts[shard], inside, side="right") - 1

    def _some(self, shard: int, numbers: np.ndarray) -> Documents:
        starts, border = self._starts[shard], self._borders[shard]
        following = np.minimum(numbers + 1, len(starts) - 1)
        stops = np.where(numbers + 1 < len(starts), starts[following], len(self._shards[shard]))
        return Documents(border + starts[numbers], border + stops, self._digests[shard][numbers])

    @cached_property
    def _digests(self) -> list[np.ndarray]:
        files = map(_digests_file, self._paths)
        return [
            np.load(file, mmap_mode="r") if file.is_file() else _digests_of(tokens, starts)
            for file, tokens, starts in zip(files, self._shards, self._starts, strict=True)
        ]


def _digests_of(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The digests that shards of version 0.2 do not have."""
    digests = []
    for document in np.split(tokens, starts[1:]):
        digest = _hash()
        digest.update(_as_bytes(document[1:-1]))
        digests.append(_number(digest))
    return np.array(digests, np.uint64)


@dataclass(frozen=True)
class Shards:
    """An open prepared folder."""

    folder: Path
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
        return cls(folder, tokenizer, manifest)

    @cached_property
    def train(self) -> TokenStream:
        return self.stream("train")

    @cached_property
    def valid(self) -> TokenStream:
        return self.stream("valid")

    def stream(self, split: str, source: str | None = None) -> TokenStream:
        """The tokens of a split, or of one of its sources."""
        shards = self.manifest["splits"][split]["shards"]
        return TokenStream([self.folder / shard["file"] for shard in shards if source in (None, shard.get("source"))])

    def counts(self, split: str, source: str | None = None) -> dict[str, int]:
        """`documents`, `tokens` and `bytes` of a split, or of one of its sources."""
        counts = self.manifest["splits"][split]
        return counts if source is None else counts["sources"][source]


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
        (_digests_file(tokens), shard["documents"], shard.get("digests_sha256")),
    ):
        if checksum is None:  # version 0.2 wrote no digests
            continue
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


def _digests_file(shard: Path) -> Path:
    return shard.with_suffix(".digests.npy")


def _write_header(file: BinaryIO, dtype: np.dtype, length: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
