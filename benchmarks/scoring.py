"""Scoring of short sentences in every mode, beside a plain loop over them; and the standard error of `mc` beside independent draws.

The plain loop reads one sentence at a time with the same network: all its masked copies as one batch (`pll`), its draws or its steps one
after another (`mc`, `exact`), all logits of each. Sentences are made of random tokens, as long as those of BLiMP are on average (16);
half of each one's beginning is that of its neighbour, as in a minimal pair. Timed with a random model of the shape of
recipes/novels-3m.yaml; both sides must give the same scores.

The standard error is exact: the log-likelihood of every mask over ten tokens is computed once (DUALM_MODEL names a trained run, else the
weights are random), and both estimators draw from that table under many seeds.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from benchmarks.rows import Row, interleaved
from dualm.config import ModelConfig
from dualm.data.tokenizer import BOS, MASK
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring, antithetic_masks, noise
from dualm.likelihood.pairs import Pair
from dualm.likelihood.score import score
from dualm.model.attention import AttentionMask
from dualm.model.layout import by_inputs
from dualm.model.transformer import Transformer

TARGETS = {"pll": 1.8, "ar": 3.0, "mc": 2.0, "exact": 2.0}
DRAWS = 32
BIDIRECTIONAL = AttentionMask("bidirectional")


def small_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(layers=5, hidden=192, heads=4, ffn=512, context=256, vocab=2048)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.05)
    by_inputs(model)
    return model


def minimal_pairs(count: int) -> list[Pair]:
    rng = np.random.default_rng(0)
    found = []
    for length in rng.integers(10, 23, count):
        first, second = rng.integers(16, 2048, (2, length))
        second[: length // 2] = first[: length // 2]
        found += [Pair(np.array([BOS]), first), Pair(np.array([BOS]), second)]
    return found


def log_p(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)


def without_mask(logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(-1, torch.tensor([MASK]), -torch.inf)


def loop_ar(model: Transformer, tokens: torch.Tensor) -> float:
    return float(log_p(model.logits(tokens[None, :-1], AttentionMask("causal"))[0], tokens[1:]).sum())


def loop_pll(model: Transformer, tokens: torch.Tensor) -> float:
    n = len(tokens) - 1
    each, inputs = torch.arange(n), tokens.repeat(n, 1)
    inputs[each, each + 1] = MASK
    return float(log_p(without_mask(model.logits(inputs, BIDIRECTIONAL)[each, each]), tokens[1:]).sum())


def loop_mc(model: Transformer, tokens: torch.Tensor) -> float:
    pair, total = Pair(tokens[:1].numpy(), tokens[1:].numpy()), 0.0
    for masked, weight in antithetic_masks(len(tokens) - 1, Scoring("mc"), noise(pair, 0)):
        places = torch.from_numpy(np.flatnonzero(masked))
        inputs = tokens.clone()
        inputs[places + 1] = MASK
        logits = without_mask(model.logits(inputs[None], BIDIRECTIONAL)[0])
        total += weight * float(log_p(logits[places], tokens[places + 1]).sum())
    return total


def loop_exact(model: Transformer, tokens: torch.Tensor) -> float:
    inputs, total = tokens.clone(), 0.0
    inputs[1:] = MASK
    while (masked := (inputs == MASK).nonzero()[:, 0]).numel():
        p = without_mask(model.logits(inputs[None], BIDIRECTIONAL)[0, masked - 1]).log_softmax(-1)
        chosen = p.amax(-1).argmax()
        place = masked[chosen]
        total += float(p[chosen, tokens[place]])
        inputs[place] = tokens[place]
    return total


LOOPS: dict[str, Callable[[Transformer, torch.Tensor], float]] = {
    "pll": loop_pll,
    "ar": loop_ar,
    "mc": loop_mc,
    "exact": loop_exact,
}


def speed(mode: str, model: Transformer, pairs: list[Pair], rounds: int) -> Row:
    found: dict[str, list[float]] = {}

    def ours() -> None:
        found["ours"] = [one.log_likelihood for one in score(model, pairs, Scoring(mode), batch=8)]

    def loop() -> None:
        with torch.no_grad():
            found["loop"] = [LOOPS[mode](model, torch.from_numpy(np.concatenate(pair))) for pair in pairs]

    took = interleaved(ours, loop, rounds)
    assert np.allclose(found["ours"], found["loop"], atol=1e-2), mode
    a, b = (1000 * seconds / len(pairs) for seconds in took.medians)
    note = f"one sentence at a time; {a:.1f} and {b:.1f} ms a sentence"
    return Row.of(f"scoring, mode {mode}, 3M", took.speedup, TARGETS[mode], note=note)


def by_mask(model: Transformer, tokens: np.ndarray) -> dict[bytes, float]:
    """log p of all masked tokens together, by the mask over all but the first: 2^n entries."""
    n, found = len(tokens) - 1, {}
    for masked in np.array_split(np.array(list(itertools.product([False, True], repeat=n))), max(1, 2**n // 256)):
        inputs = torch.from_numpy(tokens).repeat(len(masked), 1)
        inputs[:, 1:][torch.from_numpy(masked)] = MASK
        with torch.no_grad():
            logits = without_mask(model.logits(inputs, BIDIRECTIONAL)[:, :-1])
        each = log_p(logits, torch.from_numpy(tokens[1:]).expand(len(masked), -1)).double().numpy()
        found |= {mask.tobytes(): float(row[mask].sum()) for mask, row in zip(masked, each, strict=True)}
    return found


def independent_masks(n: int, scoring: Scoring, rng: np.random.Generator) -> Iterable[tuple[np.ndarray, float]]:
    for t in 1 - rng.random(scoring.draws):
        count = math.ceil(t * n)
        yield rng.permutation(n) < count, n / count / scoring.draws


def spread(
    table: dict[bytes, float], n: int, draw: Callable[..., Iterable[tuple[np.ndarray, float]]], seeds: int
) -> float:
    scoring = Scoring("mc", draws=DRAWS)
    drawn = (draw(n, scoring, np.random.default_rng(seed)) for seed in range(seeds))
    return float(np.std([sum(weight * table[mask.tobytes()] for mask, weight in one) for one in drawn]))


def variance(short: bool) -> Row:
    n, seeds, sentences = (4, 20, 1) if short else (10, 1000, 6)
    trained = os.environ.get("DUALM_MODEL")
    if trained:
        loaded = LanguageModel.load(trained, "cpu")
        model, ids = loaded.model, loaded.encode(SENTENCES)
    else:
        model, ids = small_model(), np.random.default_rng(0).integers(16, 2048, 200)
    ratios = []
    for start in range(0, sentences * n, n):
        table = by_mask(model, np.concatenate([[BOS], ids[1 + start : 1 + start + n]]))
        ratios.append(spread(table, n, antithetic_masks, seeds) / spread(table, n, independent_masks, seeds))
    note = (
        f"{DRAWS} draws over {n} tokens, range over {sentences} sentences, {'trained' if trained else 'random'} model"
    )
    return Row.of("mc: standard error over independent draws", ratios, 0.8, at_least=False, note=note)


SENTENCES = (
    "The old house stood at the end of the lane, and nobody had lived in it for many years. When the children came home from school they "
    "used to run past the gate as fast as they could, for it was said that a light was sometimes seen in the highest window."
)


def rows(short: bool) -> Iterator[Row]:
    model = small_model()
    for mode in TARGETS:
        count = 1 if short else 100 if mode == "ar" else 8
        yield speed(mode, model, minimal_pairs(count), rounds=1 if short else 5)
    yield variance(short)
