"""How many network calls does diffusion need? Calls and quality of every sampler, beside ancestral with one step per token.

    DUALM_MODEL=runs/novels-3m DUALM_JUDGE=runs/judge python -m benchmarks.run diffusion

Both are run directories: the model that writes, and one trained with alpha 1 that judges. Texts begin with nothing but `<s>`. A setting
counts where its texts have the entropy of ancestral's within 2 % and at most 5 % more perplexity under the judge; the row is the one
that needs the fewest calls per text. All of them stand in `benchmarks/diffusion.csv` and, drawn, in `benchmarks/diffusion.svg`.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.rows import Row
from dualm.data.tokenizer import BOS, EOS
from dualm.evaluation.judge import Judge
from dualm.evaluation.quality import Quality, quality
from dualm.generation.diffusion import Calls, canvas, denoise
from dualm.generation.samplers import SAMPLERS, Denoising
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.interop.export import export
from dualm.language_model import LanguageModel

HERE = Path(__file__).parent
KNOBS: dict[str, tuple[str, list[float]]] = {  # samplers that choose the number of calls themselves
    "entropy_bound": ("gamma", [1.0, 5.0, 10.0, 20.0]),
    "threshold": ("tau", [0.5, 0.2, 0.1, 0.05]),
}
SHARES = [1, 2, 3, 4, 8]  # of the others: tokens per step
ENTROPY, PERPLEXITY = 0.02, 1.05


@dataclass(frozen=True)
class Setting:
    sampler: str
    knob: str
    options: dict[str, Any]
    calls: float  # of the network, for a text
    measured: Quality


def settings(tokens: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in SAMPLERS:
        if name in KNOBS:
            knob, values = KNOBS[name]
            yield from ((name, f"{knob} {value:g}", {knob: value}) for value in values)
        else:
            yield from ((name, f"{tokens // share} steps", {"steps": tokens // share}) for share in SHARES)


def generated(model: LanguageModel, texts: int, tokens: int, denoising: Denoising) -> tuple[list[str], float]:
    """Texts, and how often the network was run for each."""
    calls = Calls()
    dice = [Dice.of(0, row, model.device) for row in range(texts)]
    start, sampling = canvas([np.array([BOS])] * texts, tokens), Sampling(forbidden=(*NEVER, EOS))
    *_, last = denoise(model.model, start, dice, sampling, denoising, model.shifted, calls)
    return [model.tokenizer.decode(row[1:]) for row in last.tokens], calls.sequences / texts


def curve(model: LanguageModel, judge: Judge, texts: int, tokens: int) -> list[Setting]:
    found = []
    for sampler, knob, options in settings(tokens):
        written, calls = generated(model, texts, tokens, Denoising(sampler, **options))
        found.append(Setting(sampler, knob, options, calls, quality(written, judge)))
        print(
            f"  {sampler:18} {knob:12} {calls:6.1f} calls, perplexity {found[-1].measured.perplexity:8.1f},"
            f" entropy {found[-1].measured.entropy:.3f}",
            flush=True,
        )
    return found


def as_good(setting: Setting, base: Setting) -> bool:
    ours, theirs = setting.measured, base.measured
    assert ours.perplexity is not None
    assert theirs.perplexity is not None
    same_entropy = abs(ours.entropy / theirs.entropy - 1) <= ENTROPY
    return same_entropy and ours.perplexity <= PERPLEXITY * theirs.perplexity


def row(found: list[Setting], texts: int, tokens: int) -> Row:
    base = next(setting for setting in found if setting.sampler == "ancestral")
    best = min((one for one in found if as_good(one, base)), key=lambda one: one.calls)
    note = (
        f"{best.sampler}, {best.knob}: {best.calls:.1f} calls for {base.calls:.0f}, perplexity {best.measured.perplexity:.0f} for "
        f"{base.measured.perplexity:.0f}, entropy {best.measured.entropy:.2f} for {base.measured.entropy:.2f}; {texts} texts of {tokens} tokens"
    )
    return Row.of("diffusion: calls of ancestral, as good", [base.calls / best.calls], 3.0, note=note)


def write(found: list[Setting]) -> None:
    with open(HERE / "diffusion.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sampler", "setting", "calls", "perplexity", "entropy"])
        for one in found:
            table.writerow(
                [
                    one.sampler,
                    one.knob,
                    f"{one.calls:.1f}",
                    f"{one.measured.perplexity:.1f}",
                    f"{one.measured.entropy:.3f}",
                ]
            )
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "perplexity"), (right, "entropy")):
        for number, sampler in enumerate(SAMPLERS):
            own = sorted((one for one in found if one.sampler == sampler), key=lambda one: one.calls)
            values = [getattr(one.measured, name) for one in own]
            axes.plot([one.calls for one in own], values, marker="osD^v"[number % 5], label=sampler)
        axes.set(xscale="log", xlabel="network calls per text", ylabel=f"{name} under the judge")
    right.legend(fontsize="small")
    figure.savefig(HERE / "diffusion.svg")


def rows(short: bool) -> Iterator[Row]:
    """Without DUALM_MODEL and DUALM_JUDGE there is nothing to measure, and no row."""
    if not {"DUALM_MODEL", "DUALM_JUDGE"} <= set(os.environ):
        print("  DUALM_MODEL and DUALM_JUDGE name no run directories: no diffusion rows")
        return
    texts, tokens = (2, 8) if short else (48, 64)
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge.load(export(os.environ["DUALM_JUDGE"], f"{folder}/judge"), "cpu")
    found = curve(LanguageModel.load(os.environ["DUALM_MODEL"], "cpu"), judge, texts, tokens)
    yield row(found, texts, tokens)
    if not short:
        write(found)
