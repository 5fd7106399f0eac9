"""How fast is text generated? AR decoding beside transformers' `generate`, and every diffusion sampler.

    python -m benchmarks.generation runs/novels-3m
    python -m benchmarks.generation runs/novels-3m --device cuda --precision bf16 --batch 1 32

Part 1 decodes the same number of tokens greedily, with `</s>` forbidden, from the same prompts, by dualm (A) and by
`transformers` on the exported model (B), turn by turn; printed are the medians of tokens per second and the ratio
A / B, and whether both wrote the same tokens. Part 2 generates with each sampler and prints network passes, tokens
per second, the sequences that went through the network per text, and the unigram entropy of what was written (without it
a repetitive sampler looks good).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from dualm.data.tokenizer import BOS, EOS, MASK
from dualm.generation.autoregressive import decode
from dualm.generation.blocks import denoise_blocks
from dualm.generation.diffusion import Calls, canvas, denoise
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.interop.export import export
from dualm.language_model import LanguageModel

SAMPLERS = [  # what a user would try: name, options
    ("ancestral", {"sampler": "ancestral"}),
    ("ancestral, 1000 steps", {"sampler": "ancestral", "steps": 1000}),
    ("ancestral_cached, 1000 steps", {"sampler": "ancestral_cached", "steps": 1000}),
    ("confidence", {"sampler": "confidence"}),
    ("confidence, 1 step per 4 tokens", {"sampler": "confidence", "steps": 4}),
    ("entropy_bound, gamma 0.1", {"sampler": "entropy_bound", "gamma": 0.1}),
    ("entropy_bound, gamma 5", {"sampler": "entropy_bound", "gamma": 5.0}),
    ("threshold, tau 0.9", {"sampler": "threshold", "tau": 0.9}),
    ("threshold, tau 0.1", {"sampler": "threshold", "tau": 0.1}),
    ("remask, eta 0.05", {"sampler": "remask"}),
    ("remask_confidence, eta 0.05", {"sampler": "remask_confidence"}),
    ("confidence, guidance 1", {"sampler": "confidence", "guidance": 1.0}),
    ("confidence, blocks of 32, cached", {"sampler": "confidence", "block": 32}),
]
PROMPT = "It was a dark and stormy night; the"
FORBIDDEN = (*NEVER, EOS)  # every text has its full length, so that speeds compare


@contextmanager
def seconds(device: torch.device) -> Iterator[Callable[[], float]]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start, end = time.perf_counter(), []
    yield lambda: end[0] - start
    if device.type == "cuda":
        torch.cuda.synchronize()
    end.append(time.perf_counter())


def dice(model: LanguageModel, count: int) -> list[Dice]:
    return [Dice.of(0, row, model.device) for row in range(count)]


def decode_ours(model: LanguageModel, prompts: np.ndarray, tokens: int) -> np.ndarray:
    sampling = Sampling(temperature=0, forbidden=FORBIDDEN)
    with model.autocast():
        return np.stack(list(decode(model.model, list(prompts), tokens, dice(model, len(prompts)), sampling)), axis=1)


def compare_with_transformers(model: LanguageModel, batches: list[int], tokens: int, repeats: int) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    with tempfile.TemporaryDirectory() as folder:
        export(str(model.folder), f"{folder}/model")
        theirs = AutoModelForCausalLM.from_pretrained(f"{folder}/model").to(model.device)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, pad_token_id=0, eos_token_id=None, suppress_tokens=list(FORBIDDEN)
    )
    print("\nAR decoding, greedy: tokens/s of dualm, of transformers, ratio")
    for batch in batches:
        rng = np.random.default_rng(0)
        prompts = np.concatenate([np.full((batch, 1), BOS), rng.integers(16, model.model.config.vocab, (batch, 7))], 1)
        inputs = torch.from_numpy(prompts).to(model.device)

        def decode_theirs(inputs: torch.Tensor = inputs) -> np.ndarray:
            mask = torch.ones_like(inputs)
            with model.autocast(), torch.no_grad():
                return theirs.generate(inputs, attention_mask=mask, generation_config=config)[:, 8:].cpu().numpy()

        speeds: tuple[list[float], list[float]] = ([], [])
        same = 0.0
        for _ in range(repeats + 1):
            with seconds(model.device) as ours_took:
                ours = decode_ours(model, prompts, tokens)
            with seconds(model.device) as theirs_took:
                written = decode_theirs()
            speeds[0].append(batch * tokens / ours_took())
            speeds[1].append(batch * tokens / theirs_took())
            same = float((ours == written).mean())
        a, b = (statistics.median(values[1:]) for values in speeds)
        print(f"  batch {batch:<4}{a:10,.0f}{b:10,.0f}{a / b:8.2f}x   {same:.1%} of the tokens equal", flush=True)


def time_samplers(model: LanguageModel, batch: int, tokens: int) -> None:
    print(f"\ndiffusion, {batch} texts of {tokens} tokens: network passes, sequences per text, tokens/s, entropy")
    prompts = [model.encode(PROMPT)] * batch
    for name, options in SAMPLERS:
        if name.endswith("per 4 tokens"):
            options = options | {"steps": tokens // 4}
        denoising, calls = Denoising(**options), Calls()
        run = denoise_blocks if denoising.block else denoise
        start = prompts if denoising.block else canvas(prompts, tokens)
        more = (tokens,) if denoising.block else ()
        with seconds(model.device) as took, model.autocast():
            sampling = Sampling(forbidden=FORBIDDEN)
            *_, last = run(model.model, start, *more, dice(model, batch), sampling, denoising, model.shifted, calls)
        written = last.tokens[:, len(prompts[0]) :]
        assert not (written == MASK).any()
        speed = batch * tokens / took()
        print(
            f"  {name:34}{calls.passes:8,}{calls.sequences / batch:12,.0f}{speed:10,.0f}{entropy(written):8.2f}",
            flush=True,
        )


def entropy(tokens: np.ndarray) -> float:
    """Of the unigram distribution within each text, mean over texts, nats (MDLM and ReMDM report the same)."""
    shares = [np.unique(row, return_counts=True)[1] / len(row) for row in tokens]
    return float(np.mean([-(share * np.log(share)).sum() for share in shares]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device")
    parser.add_argument("--precision", default="fp32")
    a = parser.parse_args()
    model = LanguageModel.load(a.run, a.device, a.precision)
    print(f"{a.run}, {model.model.parameter_count():,} parameters, {model.device}, {torch.get_num_threads()} threads")
    compare_with_transformers(model, a.batch, a.tokens, a.repeats)
    time_samplers(model, a.batch[-1], a.tokens)


if __name__ == "__main__":
    main()
