"""Token streams whose tokens all differ, so that a test can tell from a token where it stands in the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualm.data.shards import ShardWriter, TokenStream

FIRST = 16  # the ids below are reserved


def documents(lengths: Sequence[int]) -> list[np.ndarray]:
    """Documents of so many tokens, `<s>` and `</s>` not counted; no token comes twice."""
    ends = FIRST + np.cumsum(lengths)
    return [np.arange(end - length, end) for end, length in zip(ends.tolist(), lengths, strict=True)]


def write(folder: Path, texts: Sequence[np.ndarray], shard_tokens: int = 40) -> TokenStream:
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, "train", 2**17, shard_tokens)
    for tokens in texts:
        writer.write(tokens, len(tokens))
    return TokenStream([folder / shard["file"] for shard in writer.finish()["shards"]])
