"""Likelihoods and generation on the device against the CPU in float32, and how fast text is generated."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.harness import Cases, Numbers, Settings, median_ms, relative, within
from benchmarks.gpu.model import TINY, autocast, build
from dualm.config import ModelConfig
from dualm.data.tokenizer import BOS, EOS
from dualm.generation.autoregressive import decode
from dualm.generation.blocks import denoise_blocks
from dualm.generation.diffusion import canvas, denoise
from dualm.generation.samplers import SAMPLERS, Denoising
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.likelihood.modes import MODES, Scoring
from dualm.likelihood.pairs import Pair
from dualm.likelihood.score import score
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer

TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
SMALL = ModelConfig(layers=12, hidden=768, heads=12, ffn=2048, context=1024, vocab=32768)  # about 125M parameters
NO_END = (*NEVER, EOS)


def check(cases: Cases) -> None:
    for precision in TOLERANCES:
        for mode in MODES:
            cases.run(f"score {mode} {precision}", partial(scores_agree, mode, precision, cases.settings))
        for attention in ("causal", "prefix"):
            name = f"cache {attention} {precision}"
            cases.run(name, partial(cache_agrees, attention, precision, cases.settings))
    for sampler in SAMPLERS:
        cases.run(f"sampler {sampler} bf16", partial(sampler_writes, sampler, cases.settings))


def measure(cases: Cases) -> None:
    """Generation at about 125M parameters, bf16."""
    with torch.device(cases.settings.device):
        model = Transformer(SMALL if cases.settings.on_gpu else TINY).eval()
    for batch in (1, 32):
        cases.run(f"AR decoding, batch {batch}", partial(decoding_speed, model, batch, cases.settings))
        cases.run(f"diffusion step, batch {batch}", partial(step_speed, model, batch, cases.settings))


def pairs(settings: Settings) -> list[Pair]:
    rng = np.random.default_rng(settings.seed)
    lengths = [(1, 5), (20, 9), (60, 30)]
    return [Pair(np.append(BOS, rng.integers(16, TINY.vocab, c)), rng.integers(16, TINY.vocab, n)) for c, n in lengths]


def scores_agree(mode: str, precision: str, settings: Settings) -> Numbers:
    scoring = Scoring(mode, draws=8, guidance=0.0 if MODES[mode].causal else 0.5)
    with torch.no_grad(), autocast(settings.device, precision):
        found = score(build(TINY, settings, False).eval(), pairs(settings), scoring)
    exact = score(build(TINY, cpu(settings), False).eval(), pairs(settings), scoring)
    a, b = (torch.tensor([one.log_likelihood for one in side]) for side in (found, exact))
    # In bf16 the order of confidence may differ where two tokens are nearly as likely.
    return within({"log_likelihood": relative(a, b)}, {"log_likelihood": TOLERANCES[precision]})


def cache_agrees(attention: str, precision: str, settings: Settings) -> Numbers:
    """Greedy texts from the cache on the device; their logits read as a whole on the CPU must agree with the choice."""
    prompts = [pair.context for pair in pairs(settings)]
    dice = [Dice.of(0, row, settings.device) for row in range(len(prompts))]
    network, sampling = build(TINY, settings, False).eval(), Sampling(temperature=0, forbidden=NO_END)
    with autocast(settings.device, precision):
        written = np.stack(list(decode(network, prompts, 20, dice, sampling, attention)), axis=1)  # type: ignore[arg-type]
    reference, worst = build(TINY, cpu(settings), False).eval(), 0.0
    for prompt, row in zip(prompts, written, strict=True):
        tokens = torch.from_numpy(np.concatenate([prompt, row[:-1]]))[None]
        prefix = torch.tensor([len(prompt)]) if attention == "prefix" else None
        with torch.no_grad():
            logits = reference.logits(tokens, AttentionMask(attention, prefix=prefix))[0, len(prompt) - 1 :]  # type: ignore[arg-type]
        logits[:, list(NO_END)] = -torch.inf
        lost = logits.amax(-1) - logits[torch.arange(len(row)), torch.from_numpy(row)]
        worst = max(worst, float(lost.max() / logits[:, 16:].std()))
    return within({"choice": worst}, {"choice": 10 * TOLERANCES[precision]})


def sampler_writes(sampler: str, settings: Settings) -> Numbers:
    network, prompts = build(TINY, settings, False).eval(), [pair.context for pair in pairs(settings)]
    for options in (Denoising(sampler, guidance=0.5), Denoising(sampler, block=8)):
        dice = [Dice.of(0, row, settings.device) for row in range(len(prompts))]
        with autocast(settings.device, "bf16"):
            if options.block:
                *_, last = denoise_blocks(network, prompts, 24, dice, Sampling(forbidden=NO_END), options)
            else:
                *_, last = denoise(network, canvas(prompts, 24), dice, Sampling(forbidden=NO_END), options)
        for row, prompt in zip(last.tokens, prompts, strict=True):
            assert row[: len(prompt)].tolist() == prompt.tolist(), "the prompt has changed"
            assert not set(NO_END) & set(row[len(prompt) : len(prompt) + 24].tolist()), "a special token was written"
    return {}


def decoding_speed(model: Transformer, batch: int, settings: Settings) -> Numbers:
    tokens = 128 if settings.on_gpu else 8
    dice = [Dice.of(0, row, settings.device) for row in range(batch)]

    def run() -> None:
        with autocast(settings.device, "bf16"):
            list(decode(model, [np.array([BOS])] * batch, tokens, dice, Sampling(forbidden=NO_END)))

    ms = median_ms(run, settings.device, repeats=3, warmup=1)
    return {"ms": ms, "tokens_per_second": 1e3 * batch * tokens / ms}


def step_speed(model: Transformer, batch: int, settings: Settings) -> Numbers:
    """One step of `confidence` on a canvas of 256 tokens, sampling included."""
    length = 256 if settings.on_gpu else 16
    dice = [Dice.of(0, row, settings.device) for row in range(batch)]
    start = canvas([np.array([BOS])] * batch, length)

    def run() -> None:
        with autocast(settings.device, "bf16"):
            list(denoise(model, start, dice, Sampling(), Denoising("confidence", steps=1)))

    return {"ms": median_ms(run, settings.device, repeats=5, warmup=1)}


def cpu(settings: Settings) -> Settings:
    return replace(settings, device=torch.device("cpu"))
