"""Counter-based randomness: every random draw is a pure function of what it is for.

A stream is named by (seed, purpose, counters), so nothing depends on rank, world size, worker count or
on how often a run was interrupted: the same stream always gives the same numbers.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The generator of one purpose, e.g. `stream(seed, "mask", step, sequence)`.

    Philox (Salmon et al. 2011) maps a 128-bit key and a 256-bit counter to random bits. The key is
    (seed, purpose); up to three `counters` fill its upper words, and the lowest word counts the draws.
    """
    words = np.zeros(4, dtype=np.uint64)
    words[1 : 1 + len(counters)] = counters
    key = np.array([seed, zlib.crc32(purpose.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=words))
