"""Corpus preparation: its speed beside that of the tokenizer library alone, and its memory at three sizes.

The peer is `tokenizers`' encode_batch_fast over the paragraphs of the same text, ids taken, nothing read or written. A generated text of words drawn
by Zipf's law stands in for a corpus; a process of its own prepares each size, so that the peak of its memory is known.
"""

from __future__ import annotations

import contextlib
import io
import resource
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tokenizers

from benchmarks.rows import Row, interleaved
from dualm.config import DataConfig
from dualm.data.prepare import prepare
from dualm.data.tokenizer import train_bpe

VOCAB = 4096
MEBIBYTE = 2**20
DOCUMENT = 500_000  # characters, about


def documents(size: int) -> Iterator[str]:
    """Texts of paragraphs, `size` characters in all."""
    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlcumwfgypbvk")
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(30_000)])
    while size > 0:
        drawn = words[np.minimum(rng.zipf(1.2, DOCUMENT // 6) - 1, len(words) - 1)]
        text = "\n\n".join(" ".join(drawn[start : start + 80]) + "." for start in range(0, len(drawn), 80))
        yield text
        size -= len(text)


def corpus(folder: Path, size: int) -> DataConfig:
    for number, text in enumerate(documents(size)):
        (folder / f"{number}.txt").write_text(text)
    train_bpe(documents(DOCUMENT), VOCAB).save(folder / "tokenizer.json")
    files, tokenizer = [str(folder / "*.txt")], str(folder / "tokenizer.json")
    return DataConfig(
        source="text", train=files, valid=[str(folder / "0.txt")], tokenizer=tokenizer, dir=str(folder / "shards")
    )


def rows(short: bool) -> Iterator[Row]:
    yield speed(MEBIBYTE if short else 20 * MEBIBYTE, 1 if short else 5)
    if not short:
        small, *larger = (peak(size * MEBIBYTE) for size in (10, 100, 400))
        for size, memory in zip((100, 400), larger, strict=True):
            note = f"{memory / MEBIBYTE:.0f} and {small / MEBIBYTE:.0f} MiB, the interpreter included"
            yield Row.of(f"preparation, peak memory, {size} MB over 10 MB", [memory / small], 1.15, False, note)


def speed(size: int, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        data = corpus(Path(folder), size)
        library = tokenizers.Tokenizer.from_file(str(data.tokenizer))
        texts = [path.read_text() for path in sorted(Path(folder).glob("*.txt"))]
        paragraphs = [part for text in [*texts, texts[0]] for part in text.split("\n\n")]

        def ours() -> None:
            shutil.rmtree(str(data.dir), ignore_errors=True)
            with contextlib.redirect_stderr(io.StringIO()):
                prepare(data, VOCAB)

        def peer() -> None:
            for start in range(0, len(paragraphs), 20_000):
                few = paragraphs[start : start + 20_000]
                for each in library.encode_batch_fast(few, add_special_tokens=False):
                    each.ids  # noqa: B018

        pairs = interleaved(ours, peer, rounds)
    note = f"{size / MEBIBYTE / pairs.medians[0]:.1f} MB/s; peer: encode_batch_fast on paragraphs"
    return Row.of("corpus preparation", pairs.speedup, 1.0, note=note)


def peak(size: int) -> int:
    """Bytes that a process holds at most while it prepares `size` characters."""
    with tempfile.TemporaryDirectory() as folder:
        data = corpus(Path(folder), size)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(_prepared, data).result()


def _prepared(data: DataConfig) -> int:
    prepare(data, VOCAB)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
