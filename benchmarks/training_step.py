"""A training step against transformers' Llama of the same shape, and against a plain loop of a GPT.

Our side is the step of `dualm train`, engine included. The peers (benchmarks/peers.py) are trained the way their documentation shows. For
masked diffusion the Llama is made bidirectional, and its cross-entropy goes over all positions, the unsupervised ones
ignored. The allocator is set once for the whole process, so that all sides have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import peers
from benchmarks.rows import Row, interleaved
from dualm.config import ModelConfig
from dualm.training.allocator import keep_freed_memory
from dualm.training.distributed import World, world

SIZES = {
    "3M": ModelConfig(layers=6, hidden=160, heads=5, ffn=432, vocab=4096, context=256),
    "14M": ModelConfig(layers=8, hidden=320, heads=5, ffn=864, vocab=8192, context=256),
    "34M": ModelConfig(layers=10, hidden=480, heads=8, ffn=1296, vocab=8192, context=256),
}
TINY = ModelConfig(layers=1, hidden=32, heads=2, ffn=64, vocab=272, context=32)
LARGE_VOCABULARY = 51_200
ROUNDS, BATCH = 7, 8
AR, MD = "autoregressive", "masked_diffusion"


def against(peer: str, name: str, model: ModelConfig, objective: str, target: float, short: bool, here: World) -> Row:
    one = peers.batch(objective, model, 2 if short else BATCH)
    ours = peers.engine_step(model, here, [one])
    theirs = {"Llama": peers.llama_step, "GPT": peers.gpt_step}[peer](model, one)
    pairs = interleaved(ours, theirs, 1 if short else ROUNDS)
    (a, b), tokens = pairs.medians, one.inputs.numel()
    note = f"{peer} {tokens / b:,.0f} tokens/s, dualm {tokens / a:,.0f}, {torch.get_num_threads()} threads, batch {len(one.inputs)}"
    return Row.of(name, pairs.speedup, target, note=note)


def rows(short: bool) -> Iterator[Row]:
    keep_freed_memory()
    with world() as here:
        for size, model in ({"tiny": TINY} if short else SIZES).items():
            large = replace(model, vocab=LARGE_VOCABULARY if not short else 2 * model.vocab)
            yield against("Llama", f"AR step, {size}", model, AR, 1.15, short, here)
            yield against("Llama", f"MD step, {size}", model, MD, 1.25, short, here)
            if size != "34M":
                yield against("Llama", f"AR step, {size}, V = 51,200", large, AR, 1.5, short, here)
                yield against("Llama", f"MD step, {size}, V = 51,200", large, MD, 1.8, short, here)
            if size != "14M" and size != "34M":
                yield against("GPT", f"AR step, {size}, a plain loop like nanoGPT's", model, AR, 1.0, short, here)
