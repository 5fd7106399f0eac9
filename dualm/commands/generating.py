"""What `dualm generate` does: from prompts or a text with masks to text on the terminal, in a file, or as a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from dualm.commands.options import check_least
from dualm.data.tokenizer import EOS, MASK
from dualm.errors import UserError
from dualm.files import write_text
from dualm.generation.diffusion import Step, canvas
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling
from dualm.generation.trace import page, watch, write_page
from dualm.language_model import Generation, LanguageModel

DENOISING = [one.name for one in fields(Denoising)]  # options of the command line by the same names


def generate(arguments: argparse.Namespace) -> None:
    """Generate what the command line asks for. Raises UserError for what cannot be."""
    a = arguments
    denoising = Denoising(**{name: getattr(a, name) for name in DENOISING})
    mode = "diffusion" if a.infill is not None else a.mode
    task = Generation(mode, a.max_tokens, Sampling(a.temperature, a.top_k, a.top_p), denoising, tuple(a.stop))
    _check(a, task)
    model = LanguageModel.load(a.run, a.device, a.precision)
    prompts = [prompt for prompt in a.prompts or [""] for _ in range(a.count)]
    if a.infill is not None:
        texts = [_infill(model, a, task)]
    elif a.watch or a.trace:
        texts = [_continue_watched(model, a, task, prompts[0])]
    elif len(prompts) == 1 and not a.out:
        return _stream(model, task, prompts[0], a.seed)
    else:
        options = {name: getattr(a, name) for name in DENOISING}
        sampling = {"temperature": a.temperature, "top_k": a.top_k, "top_p": a.top_p, "stop": a.stop}
        texts = model.generate(
            prompts, mode, max_tokens=a.max_tokens, seed=a.seed, batch=a.batch, **sampling, **options
        )
        texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    _write(texts, a.out, {"mode": mode, "seed": a.seed, **({"sampler": a.sampler} if mode == "diffusion" else {})})


def _check(a: argparse.Namespace, task: Generation) -> None:
    if task.mode != "diffusion" and (a.watch or a.trace):
        raise UserError(f"--{'watch' if a.watch else 'trace'}: got mode {task.mode}, expected --mode diffusion")
    if a.infill is not None and a.prompts:
        raise UserError(f"--infill: got prompts as well ({a.prompts[0]!r}), expected the text with masks alone")
    if (a.watch or a.trace) and (len(a.prompts) > 1 or a.count > 1):
        raise UserError(f"--{'watch' if a.watch else 'trace'}: got several texts, expected one prompt and --count 1")
    check_least(a, count=1, batch=1)


def _infill(model: LanguageModel, a: argparse.Namespace, task: Generation) -> str:
    tokens = model.encode_masked(a.infill)
    sampling = replace(task.sampling, forbidden=(*task.sampling.forbidden, EOS))
    dice = [Dice.of(a.seed, 0, model.device)]
    taken = _shown(model, a, tokens, model.denoised(tokens[None], dice, sampling, task.denoising))
    return model.tokenizer.decode(taken[-1].tokens[0])


def _continue_watched(model: LanguageModel, a: argparse.Namespace, task: Generation, prompt: str) -> str:
    encoded = [model.encode(prompt)]
    steps = model.canvases(encoded, task, [Dice.of(a.seed, 0, model.device)])
    start = canvas(encoded, model.new_tokens(encoded, task))[0]
    taken = _shown(model, a, start, steps)
    return prompt + model.texts(encoded, taken[-1], task)[0]


def _shown(model: LanguageModel, a: argparse.Namespace, start: np.ndarray, steps: Iterator[Step]) -> list[Step]:
    """Go through the steps, drawing them if asked to, and write the trace if asked to."""
    decode = model.tokenizer.decode
    taken = list(watch(start, steps, decode, Console(stderr=True)) if a.watch else steps)
    if a.trace:
        masks = int((start == MASK).sum())
        about = f"{masks} tokens, {len(taken)} steps, sampler {a.sampler}, seed {a.seed}"
        write_page(a.trace, page(start, taken, decode, f"{Path(a.run).name}: diffusion, step by step", about))
        print(f"{a.trace}: written", file=sys.stderr)
    return taken


def _stream(model: LanguageModel, task: Generation, prompt: str, seed: int) -> None:
    """Write one text as it grows; diffusion, which grows everywhere at once, when it is whole."""
    shown = ""
    steps = model.continuations([model.encode(prompt)], task, [Dice.of(seed, 0, model.device)])
    for (text,) in steps if task.mode != "diffusion" else list(steps)[-1:]:
        print((prompt + text)[len(shown) :], end="", flush=True)
        shown = prompt + text
    print()


def _write(texts: Sequence[str], out: Path | None, about: dict[str, object]) -> None:
    if out is None:
        print("\n\n".join(texts))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, **about}, ensure_ascii=False) for text in texts]
    write_text(out, "\n".join(lines) + "\n")
    print(f"{out}: {len(texts)} texts", file=sys.stderr)
