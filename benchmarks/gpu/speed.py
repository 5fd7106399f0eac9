"""How fast: the device's two ceilings, attention by itself, and whole training steps.

Times are medians of device events after a warm-up, on random data. Model FLOPs are counted as
`Transformer.flops_per_token` says, so attention counts in full under every mask.
"""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch._dynamo

from benchmarks import synthetic
from benchmarks.gpu.attention import Shape, random_inputs, random_mask, runnable
from benchmarks.gpu.harness import Cases, Numbers, Settings, median_ms
from benchmarks.gpu.model import autocast, objectives_of, total
from dualm import config
from dualm.config import ModelConfig, OptimizerConfig
from dualm.model.attention import CAPABILITIES, Kind, load
from dualm.model.transformer import Transformer
from dualm.training.optimizers import adamw

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SIZES = {  # name: model, sequences per step
    "10M": (ModelConfig(layers=6, hidden=256, heads=4, ffn=768, context=1024, vocab=8192), 64),
    "125M": (ModelConfig(layers=12, hidden=768, heads=12, ffn=2048, context=1024, vocab=32768), 32),
    "470M": (config.load(RECIPES / "dual-470m.yaml").model, 8),
}
DRY = (ModelConfig(layers=1, hidden=32, heads=2, ffn=48, context=64, vocab=128), 2)
ATTENTION, DRY_ATTENTION = Shape(8, 2048, 16, 16, 64), Shape(1, 64, 2, 2, 16)


def measure_ceilings(cases: Cases) -> None:
    cases.run("copy", partial(copy_bandwidth, cases.settings))
    cases.run("bf16 matrix product", partial(matmul_rate, cases.settings))


def copy_bandwidth(settings: Settings) -> Numbers:
    """Device to device, bytes read plus bytes written."""
    count = 2**30 if settings.on_gpu else 2**20
    source, target = (torch.randn(count, device=settings.device) for _ in range(2))
    ms = median_ms(lambda: target.copy_(source), settings.device, 20)
    return {"bytes_per_second": 2 * source.nbytes / ms * 1e3}


def matmul_rate(settings: Settings) -> Numbers:
    """A large square product of random matrices: the practical ceiling for every model."""
    n = 8192 if settings.on_gpu else 256
    a, b = (torch.randn(n, n, device=settings.device).bfloat16() for _ in range(2))
    ms = median_ms(lambda: a @ b, settings.device, 20)
    return {"flops_per_second": 2 * n**3 / ms * 1e3}


def measure_attention(cases: Cases) -> None:
    """Forward, and forward with backward, of one layer's attention in bf16: each backend × mask."""
    able = runnable(cases, CAPABILITIES)
    for kind, documents in itertools.product(("causal", "bidirectional", "prefix"), (False, True)):
        for backend in able:
            if (kind, documents) in CAPABILITIES[backend].masks:
                name = f"{backend} {kind}{'+documents' if documents else ''}"
                cases.run(name, partial(attention_time, backend, kind, documents, cases.settings))


def attention_time(backend: str, kind: Kind, documents: bool, settings: Settings) -> Numbers:
    """Milliseconds, and FLOP/s over the visible pairs only. `lower_ms` is paid once per forward pass of a model."""
    shape, device = ATTENTION if settings.on_gpu else DRY_ATTENTION, settings.device
    generator = settings.generator(f"{kind}{documents}")  # the same mask for every backend
    mask = random_mask(kind, documents, shape, generator)
    q, k, v = (x.to(device).requires_grad_() for x in random_inputs(shape, torch.bfloat16, generator))
    upstream = torch.randn_like(q)
    kernel = load(backend)
    lowered = kernel.lower(mask, shape.batch, shape.length, device)

    def both() -> None:
        torch.autograd.grad(kernel.attend(q, k, v, lowered), (q, k, v), upstream)

    repeats = 10 if settings.quick else 30
    with torch.no_grad():
        forward = median_ms(lambda: kernel.attend(q, k, v, lowered), device, repeats)
    both_ms = median_ms(both, device, repeats)
    lower = median_ms(lambda: kernel.lower(mask, shape.batch, shape.length, device), device, repeats)
    pairs = int(mask.dense(shape.batch, shape.length, device).expand(shape.batch, 1, -1, -1).sum())
    flops = 4 * pairs * shape.heads * shape.head_dim  # forward; the backward pass does 2.5 times as many
    return {
        "forward_ms": forward,
        "both_ms": both_ms,
        "lower_ms": lower,
        "forward_flops_per_second": flops / forward * 1e3,
        "both_flops_per_second": 3.5 * flops / both_ms * 1e3,
    }


def measure_training(cases: Cases) -> None:
    """Training steps (forward, backward, AdamW; bf16 autocast): size × compiled × backend × objective.

    The cases that matter most come first, in case time runs out.
    """
    quick, able = cases.settings.quick, runnable(cases, CAPABILITIES)
    sizes = ["dry"] if not cases.settings.on_gpu else ["125M"] if quick else ["470M", "125M", "10M"]
    for compiled, size, objective, backend in itertools.product(
        (False, True), sizes, ("autoregressive", "masked_diffusion", "prefix"), able
    ):
        if objective in objectives_of(backend, "bf16") and not (quick and compiled and objective != "autoregressive"):
            name = f"{size} {backend} {objective}{' compiled' if compiled else ''}"
            cases.run(name, partial(step_time, size, backend, objective, compiled, cases.settings))


def step_time(size: str, backend: str, objective: str, compiled: bool, settings: Settings) -> Numbers:
    """Tokens per second, utilisation and peak memory of one configuration."""
    shape, rows = SIZES[size] if settings.on_gpu else DRY
    network = with_attention(model(size, settings.device), backend, compiled, settings)
    optimizer = adamw(network.named_parameters(), OptimizerConfig(lr=1e-5), zero_stage=1)
    batch = synthetic.batch(objective, shape, rows, document=shape.context // 2, seed=settings.seed)
    moved = batch.to(settings.device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(settings.device, "bf16"):
            loss = total(network, moved)
        loss.backward()
        optimizer.step()

    if settings.on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ms = median_ms(step, settings.device, 5 if settings.quick else 10, warmup=3)
    rate = rows * shape.context / ms * 1e3
    return {"ms": ms, "tokens_per_second": rate, **utilisation(rate * network.flops_per_token(shape.context), settings)}


@lru_cache(maxsize=1)
def model(size: str, device: torch.device) -> Transformer:
    """A model of random weights, also where training starts from zeros (products with zeros can run faster)."""
    network = Transformer((SIZES | {"dry": DRY})[size][0]).to(device)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def with_attention(network: Transformer, backend: str, compiled: bool, settings: Settings) -> Transformer:
    """The same weights (they take long to draw) under another backend, its blocks compiled or not."""
    torch._dynamo.reset()
    network.model.config = replace(network.model.config, attention=backend)
    for block in network.model.layers:
        block._compiled_call_impl = None
    if compiled:
        network.compile_blocks(backend="inductor" if settings.on_gpu else "aot_eager")
    return network


def utilisation(flops_per_second: float, settings: Settings) -> Numbers:
    numbers: Numbers = {"model_flops_per_second": flops_per_second}
    if settings.ceiling:
        numbers["mfu_of_ceiling"] = flops_per_second / settings.ceiling
    if settings.peak:
        numbers["mfu_of_datasheet"] = flops_per_second / settings.peak
    if settings.on_gpu:
        numbers["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return numbers
