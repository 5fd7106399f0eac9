"""The text that tests train on: paragraphs made of a few words, so that there is something to learn."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    "the",
    "old",
    "sea",
    "cat",
    "saw",
    "a",
    "small",
    "red",
    "boat",
    "and",
    "sang",
    "to",
    "it",
    "all",
    "night",
    "long",
]


def write_corpus(path: Path, paragraphs: int = 200) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(10, 40))) for _ in range(paragraphs)]
    path.write_text("\n\n".join(texts))
