"""The whole Transformer on the device against the CPU in float32: losses, gradients, compiled blocks, training.

The batches are those of `dualm.objectives`, over synthetic tokens with document borders. The weights are random, those
that are zero at the start of training included: otherwise no block would touch the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from benchmarks import synthetic
from benchmarks.gpu.attention import runnable
from benchmarks.gpu.harness import Cases, Numbers, Settings, relative, within
from dualm.config import ModelConfig, ObjectiveConfig, OptimizerConfig
from dualm.model.attention import CAPABILITIES
from dualm.model.transformer import Transformer
from dualm.objectives.example import Batch
from dualm.training.optimizers import adamw

TINY = ModelConfig(layers=3, hidden=128, heads=2, kv_heads=1, ffn=320, context=200, vocab=512, qk_norm=True)
TIMED = replace(TINY, time_conditioning=32)
MASK_KIND = {"autoregressive": "causal", "prefix": "prefix", "masked_diffusion": "bidirectional"}
TOLERANCES = {  # loss, all gradients together, the gradient of the worst parameter
    "fp32": {"loss": 1e-4, "gradient": 1e-3, "worst_parameter": 5e-3},
    "bf16": {"loss": 2e-3, "gradient": 3e-2, "worst_parameter": 8e-2},
}
TRAINING_TOLERANCES = {"fp32": {"loss": 1e-3}, "bf16": {"loss": 1e-2}}  # of the worst of all steps
BATCH, DOCUMENT, NO_BORDER, Z_LOSS = 4, 60, 10**9, 1e-4


def check(cases: Cases) -> None:
    """Each backend × objective × precision, plain and with checkpointing; and the fastest with time conditioning."""
    able = runnable(cases, CAPABILITIES)
    for precision, backend, checkpointing in itertools.product(TOLERANCES, able, (False, True)):
        for objective in objectives_of(backend, precision):
            name = f"{backend} {objective} {precision}{' checkpointing' if checkpointing else ''}"
            model = replace(TINY, attention=backend, checkpointing=checkpointing)
            cases.run(name, partial(agrees, model, objective, precision, False, cases.settings))
    for precision in TOLERANCES:
        cases.run(
            f"auto md {precision} time conditioning",
            partial(agrees, TIMED, "masked_diffusion", precision, False, cases.settings),
        )


def check_compiled(cases: Cases) -> None:
    """Compiled blocks: each backend × objective in bf16, checkpointing, and training that mixes objectives."""
    cases.run("auto, mixed objectives, training and evaluation", partial(mixture, cases.settings))
    for checkpointing, backend in itertools.product((False, True), runnable(cases, CAPABILITIES)):
        for objective in objectives_of(backend, "bf16")[: 1 if checkpointing else 3]:
            name = f"{backend} {objective} bf16 compiled{' checkpointing' if checkpointing else ''}"
            model = replace(TINY, attention=backend, checkpointing=checkpointing)
            cases.run(name, partial(agrees, model, objective, "bf16", True, cases.settings))
    cases.run(
        "auto md bf16 compiled time conditioning",
        partial(agrees, TIMED, "masked_diffusion", "bf16", True, cases.settings),
    )


def check_training(cases: Cases) -> None:
    """A short training with all three objectives: the losses of every step against the CPU in float32."""
    for precision in TRAINING_TOLERANCES:
        cases.run(f"30 AdamW steps, auto, {precision}", partial(trains_alike, precision, cases.settings))


def agrees(model: ModelConfig, objective: str, precision: str, compiled: bool, settings: Settings) -> Numbers:
    """Loss and gradients of one batch against the reference."""
    network = build(model, settings, compiled)
    batch = batch_of(objective, settings.seed)
    loss, gradients = loss_and_gradients(network, batch, settings.device, precision)
    exact_loss, exact = on_cpu(objective, settings.seed, width=model.time_conditioning)
    flat, exact_flat = (torch.cat([g.flatten() for g in side.values()]) for side in (gradients, exact))
    errors = {
        "loss": relative(loss, exact_loss),
        "gradient": relative(flat, exact_flat),
        "worst_parameter": max(relative(gradients[name], exact[name]) for name in exact),
    }
    return within(errors, TOLERANCES[precision])


def mixture(settings: Settings) -> Numbers:
    """What a training meets, in turn: every objective, with and without borders, training and evaluation.

    Every loss is checked. Fails too where torch would give up compiling because a block was compiled too often.
    """
    network, worst = build(replace(TINY, attention="auto"), settings, compiled=True), 0.0
    with refuse_to_fall_back():
        for document, objective in itertools.product((DOCUMENT, NO_BORDER, DOCUMENT), MASK_KIND):
            exact = on_cpu(objective, settings.seed, document)[0]
            batch = batch_of(objective, settings.seed, document)
            worst = max(worst, relative(loss_and_gradients(network, batch, settings.device, "bf16")[0], exact))
            evaluated = batch_of(objective, settings.seed, document, BATCH // 2).to(settings.device)
            with torch.no_grad(), autocast(settings.device, "bf16"):
                value = total(network, evaluated)
            assert bool(value.isfinite()), f"{objective}: the evaluation loss is {value}"
    numbers = within({"loss": worst}, {"loss": TOLERANCES["bf16"]["loss"]})
    return numbers | {"graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}


def trains_alike(precision: str, settings: Settings) -> Numbers:
    steps = 10 if settings.quick else 30
    got = training_losses(settings, settings.device, precision, steps)
    exact = cpu_training(settings, steps)
    worst = max(abs(a - b) / abs(b) for a, b in zip(got, exact, strict=True))
    numbers = within({"loss": worst}, TRAINING_TOLERANCES[precision])
    return numbers | {"first": got[0], "last": got[-1], "last_on_cpu": exact[-1]}


def objectives_of(backend: str, precision: str) -> list[str]:
    """The objectives whose masks the backend claims in that precision."""
    can = CAPABILITIES[backend]
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    if not can.computes(dtype):
        return []
    return [name for name, kind in MASK_KIND.items() if (kind, True) in can.masks]


def batch_of(objective: str, seed: int, document: int = DOCUMENT, size: int = BATCH) -> Batch:
    return synthetic.batch(objective, TINY, size, document, seed)


def build(model: ModelConfig, settings: Settings, compiled: bool) -> Transformer:
    """The reference's weights under another configuration, on the device."""
    network = Transformer(model)
    network.load_state_dict(weights(settings.seed, model.time_conditioning))
    network.to(settings.device)
    if compiled:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        network.compile_blocks(backend="inductor" if settings.on_gpu else "aot_eager")
    return network


@cache
def weights(seed: int, width: int = 0) -> dict[str, Tensor]:
    """Random weights, no zeros, of a network with time conditioning of some width (0: none)."""
    torch.manual_seed(seed)
    state = Transformer(replace(TINY, attention="sdpa", time_conditioning=width)).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name, value in state.items():
        if not value.any():
            value.normal_(std=TINY.hidden**-0.5, generator=generator)
        elif value.ndim == 1:
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
        assert value.any(), name
    return state


@cache
def on_cpu(objective: str, seed: int, document: int = DOCUMENT, width: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The reference: float32, sdpa, eager."""
    network = Transformer(replace(TINY, attention="sdpa", time_conditioning=width))
    network.load_state_dict(weights(seed, width))
    return loss_and_gradients(network, batch_of(objective, seed, document), torch.device("cpu"), "fp32")


def loss_and_gradients(
    network: Transformer, batch: Batch, device: torch.device, precision: str
) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    with autocast(device, precision):
        loss = total(network, batch.to(device))
    loss.backward()
    gradients = {name: p.grad.detach().clone() for name, p in network.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def total(network: Transformer, batch: Batch) -> Tensor:
    """The loss that is trained: mean over the sequences, with z-loss."""
    losses = network(*batch.arguments)
    return (losses.nll + Z_LOSS * losses.z).mean()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def refuse_to_fall_back() -> AbstractContextManager[Any]:
    """Inside, reaching torch's limit of recompilations is an error, not a silent return to eager code."""
    return torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)


@cache
def cpu_training(settings: Settings, steps: int) -> list[float]:
    return training_losses(settings, torch.device("cpu"), "fp32", steps)


def training_losses(settings: Settings, device: torch.device, precision: str, steps: int) -> list[float]:
    """Losses of AdamW with warmup over batches of all three objectives, from the initial weights."""
    torch.manual_seed(settings.seed)
    network = Transformer(TINY).to(device)
    optimizer = adamw(network.named_parameters(), OptimizerConfig(lr=2e-3), zero_stage=0)
    losses = []
    for step, batch in enumerate(training_stream(steps, settings.seed)):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 5)
        optimizer.zero_grad()
        with autocast(device, precision):
            loss = total(network, batch.to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def training_stream(steps: int, seed: int) -> Iterator[Batch]:
    """One micro-batch a step; half autoregressive, half of these with a prefix."""
    objective = ObjectiveConfig(alpha=0.5, prefix_fraction=0.5)
    recipe = synthetic.recipe(TINY, objective, BATCH, BATCH, steps)
    made: Iterable[tuple[str, Batch]] = synthetic.training_batches(recipe, DOCUMENT, seed).for_rank(0, 1, 0)
    return (batch for _, batch in made)
