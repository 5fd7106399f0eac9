"""Peak memory of a training process against one that trains transformers' Llama of the same shape; each side is a process of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks import peers
from benchmarks.rows import Row
from benchmarks.training_step import AR, BATCH, SIZES, TINY
from dualm.config import ModelConfig
from dualm.training.allocator import keep_freed_memory
from dualm.training.distributed import world


def peak(side: str, model: ModelConfig, size: int) -> int:
    """Bytes of the resident set at its largest, after three steps."""
    one = peers.batch(AR, model, size)
    if side == "Llama":
        steps = peers.llama_step(model, one)
        for _ in range(3):
            steps()
    else:
        keep_freed_memory()
        with world() as here:
            steps = peers.engine_step(model, here, [one])
            for _ in range(3):
                steps()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def in_a_process(side: str, model: ModelConfig, size: int) -> int:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(peak, side, model, size).result()


def rows(short: bool) -> Iterator[Row]:
    model, size = (TINY, 2) if short else (SIZES["14M"], BATCH)
    recomputing = replace(model, checkpointing=True)
    runs = [
        [in_a_process(*side, size) for side in (("dualm", model), ("dualm", recomputing), ("Llama", model))]
        for _ in range(1 if short else 3)
    ]
    for column, name, target in ((0, "", 0.85), (1, " with model.checkpointing", 0.6)):
        ratios = [run[column] / run[2] for run in runs]
        note = f"{runs[0][column] / 2**20:,.0f} MiB, Llama {runs[0][2] / 2**20:,.0f}; both with their libraries"
        yield Row.of(f"peak memory of training, 14M{name}", ratios, target, at_least=False, note=note)
