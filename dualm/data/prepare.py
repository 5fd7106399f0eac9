"""Preparing: corpus -> tokenizer -> token shards, once; later readers find them whole or not at all.

    lock .<folder>.lock  ->  write .<folder>.partial  ->  sync to disk  ->  rename to <folder>

The folder remembers which recipe keys and files it was made from, so it is used again exactly as long as those
are the same.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dualm import files
from dualm.config import DataConfig, keys
from dualm.data import corpus, shards
from dualm.data import tokenizer as tokenizers
from dualm.data.corpus import Split
from dualm.data.weighted import WeightedSource, weighted_sources
from dualm.data.windows import FORMATS
from dualm.errors import UserError

BATCH = 2**22  # characters encoded at once, in parallel

PAIR_KEYS = ("data.format", "data.prompt_field", "data.response_field", "data.separator")  # read for pairs only


def prepare(data: DataConfig, vocab: int) -> Path:
    """The folder of prepared shards for this recipe, made now unless it is there already.

    `vocab` is model.vocab: the size of a tokenizer trained here, the largest size of any other. May be called by
    many processes at once: one prepares, the others wait for it.

    Raises:
        UserError: a bad corpus or tokenizer, a folder that is not ours to replace, a full disk.
    """
    FORMATS.choose(data.format)
    for source in weighted_sources(data):
        corpus.check_source(source.data)
    folder, source = _asked(data, vocab)
    try:
        if not _reusable(folder, source, _say):
            _prepare_alone(folder, data, vocab, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"data.dir: no space left on the disk of {folder}, nothing was kept") from None
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from None
    _check_vocab(shards.read_manifest(folder)["tokenizer"]["vocab"], data, vocab)
    return folder


def prepared(data: DataConfig, vocab: int) -> Path | None:
    """The folder of prepared shards for this recipe, if it is there already and whole, and so are the files it was made from."""
    try:
        folder, source = _asked(data, vocab)
    except UserError:  # the tokenizer is not there
        return None
    return folder if _reusable(folder, source, say=lambda line: None) else None


# ---------------------------------------------------------------- what a folder was made from


def _asked(data: DataConfig, vocab: int) -> tuple[Path, dict[str, Any]]:
    """The folder for this recipe, and what it is to be made from."""
    made_from = source_keys(data, vocab)
    folder = Path(data.dir or f"prepared/{data.source}-{_fingerprint(made_from)[:8]}").expanduser().resolve()
    return folder, {"fingerprint": _fingerprint(made_from), "keys": made_from, "files": _files(data)}


def source_keys(data: DataConfig, vocab: int) -> dict[str, Any]:
    """The recipe keys that decide what the shards hold: all of `data` but those that say they don't."""
    trained = {"model.vocab": vocab} if data.tokenizer == "bpe" else {}
    names = [name for name, key in keys().items() if name.startswith("data.") and key.shards]
    read = [name for name in names if data.format == "pairs" or name not in PAIR_KEYS]
    values = {name: getattr(data, name.removeprefix("data.")) for name in read}
    sources = weighted_sources(data)
    if sources[0].name is not None:  # their weights and repetitions leave the shards as they are
        values["data.train"] = [[source.name, source.data.train, source.data.valid] for source in sources]
    return values | trained


def _decided(made_from: dict[str, Any]) -> dict[str, Any]:
    """The keys that are not at their defaults: a key that came later stands at its default in older folders."""
    defaults = {name: key.default for name, key in keys().items() if name != "model.vocab"}
    return {name: value for name, value in made_from.items() if name not in defaults or value != defaults[name]}


def _fingerprint(made_from: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([shards.FORMAT, _decided(made_from)], sort_keys=True).encode()).hexdigest()


def _files(data: DataConfig) -> list[list[Any]]:
    states = [state for source in weighted_sources(data) for state in corpus.inventory(source.data)]
    if data.tokenizer in tokenizers.BUILDERS:
        return states
    return states + corpus.file_states([tokenizers.definition_file(data.tokenizer)])


def _reusable(folder: Path, source: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Whether `folder` is whole and made from just this. Raises UserError where it must not be replaced either."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "manifest.json").is_file():
        raise UserError(f"data.dir: {folder} exists and holds no prepared shards, expected a new folder")
    made_from = shards.read_manifest(folder)["source"]
    if difference := _difference(_decided(made_from["keys"]), _decided(source["keys"])):
        raise UserError(f"data.dir: {folder} was prepared with {difference}")
    if source["files"] and made_from["files"] != source["files"]:  # none at all: shards brought from elsewhere
        say(f"{folder}: its source files have changed")
        return False
    try:
        train = shards.Shards.open(folder, verify=False).counts("train")
    except UserError as error:
        say(str(error))
        return False
    say(f"{folder}: used again, {train['tokens']:,} training tokens")
    return True


def _difference(made: dict[str, Any], asked: dict[str, Any]) -> str:
    names = [name for name in {**made, **asked} if made.get(name) != asked.get(name)]
    default = {name: keys()[name].default for name in names}
    return ", ".join(
        f"{name}={made.get(name, default[name])!r} (got {asked.get(name, default[name])!r})" for name in names
    )


def _check_vocab(size: int, data: DataConfig, vocab: int) -> None:
    if size > vocab:
        raise UserError(
            f"model.vocab: got {vocab}, expected at least {size}, the ids of data.tokenizer: {data.tokenizer}"
        )


# ---------------------------------------------------------------- all or nothing


def _prepare_alone(folder: Path, data: DataConfig, vocab: int, source: dict[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if _reusable(folder, source, _say):  # made by another process while this one waited
            return
        with files.whole_folder(folder) as partial:
            _say(f"{folder}: preparing, from source {data.source}")
            splits = _write(partial, data, vocab, source)
    entries, size = ("pairs", 2) if data.format == "pairs" else ("documents", 1)
    counts = (
        f"{name} {split['documents'] // size:,} {entries}, {split['tokens']:,} tokens" for name, split in splits.items()
    )
    _say(f"{folder}: prepared; {'; '.join(counts)}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = files.hidden(folder, "lock")
    held = files.lock(path)
    if held is None:
        _say(f"{folder}: waiting for the process that prepares it")
        held = files.lock(path, wait=True)
    assert held is not None
    try:
        yield
    finally:
        os.close(held)


# ---------------------------------------------------------------- encoding


class Piece(NamedTuple):
    """A stretch of a document, so that one large document needs no more memory than many small ones."""

    split: Split
    text: str
    ends_document: bool


def _write(folder: Path, data: DataConfig, vocab: int, made_from: dict[str, Any]) -> dict[str, Any]:
    """Write tokenizer, shards and manifest; returns the manifest's counts of each split."""
    sources = weighted_sources(data)
    texts = itertools.chain.from_iterable(corpus.documents(source.data, "train") for source in sources)
    tokenizer = tokenizers.build(data.tokenizer, texts, vocab, data.tokenizer_split)
    _check_vocab(tokenizer.vocab, data, vocab)
    sizes = [corpus.total_bytes(source.data) for source in sources]
    with _progress(sum(filter(None, sizes)) if all(sizes) else None) as advance:
        written = {source.name: _write_source(folder, source, tokenizer, advance) for source in sources}
    splits = {split: _together({name: counts[split] for name, counts in written.items()}) for split in corpus.SPLITS}
    shards.write_manifest(folder, tokenizer, splits, made_from)
    return splits


def _write_source(
    folder: Path, source: WeightedSource, tokenizer: tokenizers.Tokenizer, advance: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    """Write the shards of one source; returns the counts of each split."""

    def writer(split: Split) -> shards.ShardWriter:
        name = split if source.name is None else f"{split}-{source.name}"
        data = source.data
        return shards.ShardWriter(folder, name, tokenizer.vocab, data.shard_tokens, data.document_end)

    writers = {split: writer(split) for split in corpus.SPLITS}
    for batch, encoded in _encoded(_batches(_pieces(corpus.labelled(source.data))), tokenizer):
        for piece, tokens in zip(batch, encoded, strict=True):
            size = len(piece.text.encode())
            writers[piece.split].write(tokens, size, piece.ends_document)
            advance(size)
    counts = {split: writer.finish() for split, writer in writers.items()}
    for split in corpus.SPLITS:
        if not counts[split]["tokens"]:
            of = f", source '{source.name}'" if source.name else ""
            raise UserError(
                f"data.{split}{of}: no text in the corpus, expected at least one document that is not blank"
            )
    return counts


def _together(counts: dict[str | None, dict[str, Any]]) -> dict[str, Any]:
    """The counts of a split from those of its sources."""
    if None in counts:
        return counts[None]
    totals = {key: sum(one[key] for one in counts.values()) for key in ("documents", "tokens", "bytes")}
    listed = [{**shard, "source": name} for name, one in counts.items() for shard in one["shards"]]
    own = {name: {key: one[key] for key in totals} for name, one in counts.items()}
    return {**totals, "shards": listed, "sources": own}


def _pieces(documents: Iterable[tuple[Split, str]]) -> Iterator[Piece]:
    for split, text in documents:
        *front, last = tokenizers.pieces(text)
        yield from (Piece(split, piece, ends_document=False) for piece in front)
        yield Piece(split, last, ends_document=True)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded(
    batches: Iterable[list[Piece]], tokenizer: tokenizers.Tokenizer
) -> Iterator[tuple[list[Piece], list[np.ndarray]]]:
    """Each batch with the tokens of its pieces. The next one is encoded while the caller writes this one and reads on."""
    with ThreadPoolExecutor(1) as thread:
        before = None
        for batch in batches:
            job = batch, thread.submit(tokenizer.encode, [piece.text for piece in batch])
            if before:
                yield before[0], before[1].result()
            before = job
        if before:
            yield before[0], before[1].result()


# ---------------------------------------------------------------- what the user sees


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with every further number of bytes. Draws on a terminal only."""
    clock = TimeRemainingColumn() if total else TimeElapsedColumn()
    columns = (TextColumn("encoding"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), clock)
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("encoding", total=total)
        yield lambda size: progress.advance(task, size)
