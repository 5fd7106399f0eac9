"""A training step against what this machine and the model allow: matrix products, a loop without an engine, pure steps, Newton-Schulz."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import peers
from benchmarks.rows import Row, interleaved
from benchmarks.training_step import AR, BATCH, MD, ROUNDS, SIZES, TINY
from dualm.config import ModelConfig
from dualm.model.size import flops_per_token
from dualm.training.allocator import keep_freed_memory
from dualm.training.distributed import World, world
from dualm.training.optimizers import is_hidden_matrix

NEWTON_SCHULZ_STEPS = 5


def matmul(size: int) -> tuple[peers.Step, int]:
    """A large product of two square matrices, and its FLOPs."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    return lambda: torch.mm(a, b, out=out), 2 * size**3


def share(name: str, model: ModelConfig, short: bool, here: World) -> Row:
    """FLOPs per second of an AR step over those of the matrix product."""
    one = peers.batch(AR, model, 2 if short else BATCH)
    product, product_flops = matmul(64 if short else 3072)
    pairs = interleaved(peers.engine_step(model, here, [one]), product, 1 if short else ROUNDS)
    flops = flops_per_token(model, model.context) * one.inputs.numel()
    limit = product_flops / pairs.medians[1]
    shares = [flops / product_flops * ratio for ratio in pairs.speedup]
    return Row.of(f"share of the fp32 matmul limit, {name}", shares, 0.75, note=f"limit {limit / 1e9:.0f} GFLOP/s")


def overhead(name: str, model: ModelConfig, short: bool, here: World) -> Row:
    one = peers.batch(AR, model, 2 if short else BATCH)
    engine, plain = peers.engine_step(model, here, [one]), peers.plain_step(model, one)
    pairs = interleaved(engine, plain, 1 if short else 3 * ROUNDS)
    note = f"time over that of a loop without an engine, {1e3 * pairs.medians[1]:.0f} ms"
    return Row.of(
        f"engine, one process, {name}", [1 / ratio for ratio in pairs.speedup], 1.03, at_least=False, note=note
    )


def mixed(name: str, model: ModelConfig, short: bool, here: World) -> Row:
    """Two steps of an AR and an MD micro-batch each, against one step of two AR and one of two MD micro-batches."""
    ar, md = (peers.batch(objective, model, 2 if short else BATCH) for objective in (AR, MD))
    both, pure_ar, pure_md = (peers.engine_step(model, here, micro) for micro in ([ar, md], [ar, ar], [md, md]))
    pairs = interleaved(lambda: (both(), both()), lambda: (pure_ar(), pure_md()), 1 if short else ROUNDS)
    note = "time over the mean of pure AR and pure MD steps"
    return Row.of(f"mixed step, {name}", [1 / ratio for ratio in pairs.speedup], 1.03, at_least=False, note=note)


def muon(name: str, model: ModelConfig, short: bool, here: World) -> Row:
    """Time of a Muon step over that of an AdamW step and the FLOPs of Newton-Schulz at the matmul limit."""
    one = peers.batch(AR, model, 2 if short else BATCH)
    steps = [peers.engine_step(model, here, [one], optimizer) for optimizer in ("muon", "adamw")]
    product, product_flops = matmul(64 if short else 3072)
    limit = product_flops / interleaved(product, product, 3).medians[0]
    floor = newton_schulz_flops(model) / limit
    pairs = interleaved(*steps, 1 if short else ROUNDS)
    ratios = [a / (b + floor) for a, b in zip(pairs.a, pairs.b, strict=True)]
    note = f"Muon {1e3 * pairs.medians[0]:.0f} ms, AdamW {1e3 * pairs.medians[1]:.0f} ms, Newton-Schulz at the limit {1e3 * floor:.0f} ms"
    return Row.of(f"Muon over AdamW and Newton-Schulz, {name}", ratios, 1.05, at_least=False, note=note)


def newton_schulz_flops(model: ModelConfig) -> int:
    """Of X Xᵀ, A A and B X in every iteration, with X's shorter side first."""
    total = 0
    for name, parameter in peers.network(model).named_parameters():
        if is_hidden_matrix(name, parameter.ndim):
            short, long = sorted(parameter.shape)
            total += NEWTON_SCHULZ_STEPS * (4 * short**2 * long + 2 * short**3)
    return total


def rows(short: bool) -> Iterator[Row]:
    keep_freed_memory()
    torch.compiler.set_stance("force_eager")  # as `dualm train` does: DeepSpeed would compile Newton-Schulz
    small, middle, large = [("tiny", TINY)] * 3 if short else SIZES.items()
    with world() as here:
        yield share(*large, short, here)
        yield share(*middle, short, here)
        yield overhead(*small, short, here)
        yield overhead(*middle, short, here)
        yield mixed(*small, short, here)
        yield muon(*middle, short, here)
