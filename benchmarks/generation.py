"""AR decoding, greedy, beside transformers' `generate` on the same weights: with its default and with its static cache.

A model of 34M parameters with random weights goes on from 8 tokens by 64. `</s>` is forbidden, so every text has its full length; both
must write the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from benchmarks.rows import Row, interleaved
from benchmarks.training_step import SIZES, TINY
from dualm.config import ModelConfig
from dualm.data.tokenizer import BOS, EOS
from dualm.generation.autoregressive import decode
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.model import weights
from dualm.model.layout import by_inputs
from dualm.model.transformer import Transformer

FORBIDDEN = (*NEVER, EOS)
TARGET = 1.5


def models(config: ModelConfig) -> tuple[Transformer, Any]:
    """Ours as `dualm.load` leaves it, and the same Llama."""
    torch.manual_seed(0)
    ours = Transformer(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.05)
    theirs: Any = AutoModelForCausalLM.from_config(LlamaConfig.from_dict(weights.hf_config(config))).eval()
    theirs.load_state_dict({name: tensor.clone() for name, tensor in ours.state_dict().items()})
    by_inputs(ours)
    return ours, theirs


def rows(short: bool) -> Iterator[Row]:
    config = TINY if short else SIZES["34M"]
    ours, theirs = models(config)
    tokens, rounds = (4, 1) if short else (64, 7)
    for batch in (1, 16):
        drawn = np.random.default_rng(0).integers(16, config.vocab, (batch, 7))
        prompts = np.concatenate([np.full((batch, 1), BOS), drawn], axis=1)
        for cache in ("default", "static"):
            a, b = decode_ours(ours, prompts, tokens), decode_theirs(theirs, prompts, tokens, cache)
            same = (a() == b()).mean()
            pairs = interleaved(a, b, rounds)
            speeds = " and ".join(f"{batch * tokens / took:,.0f}" for took in pairs.medians)
            note = f"transformers generate; {speeds} tokens/s, {same:.0%} of the tokens equal"
            yield Row.of(f"AR decoding, 34M, batch {batch}, {cache} cache", pairs.speedup, TARGET, note=note)


def decode_ours(model: Transformer, prompts: np.ndarray, tokens: int) -> Callable[[], np.ndarray]:
    def run() -> np.ndarray:
        dice = [Dice.of(0, row, torch.device("cpu")) for row in range(len(prompts))]
        sampling = Sampling(temperature=0, forbidden=FORBIDDEN)
        return np.stack(list(decode(model, list(prompts), tokens, dice, sampling)), axis=1)

    return run


def decode_theirs(model: Any, prompts: np.ndarray, tokens: int, cache: str) -> Callable[[], np.ndarray]:
    inputs = torch.from_numpy(prompts)
    how = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, pad_token_id=0, eos_token_id=None, suppress_tokens=list(FORBIDDEN)
    )
    if cache == "static":
        how.cache_implementation = "static"

    def run() -> np.ndarray:
        with torch.no_grad():
            found = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=how)
        return found[:, inputs.shape[1] :].numpy()

    return run
