"""Made-up tokens and the batches the objectives make of them, so that benchmarks need no corpus."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dualm.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, TrainConfig
from dualm.data.tokenizer import BOS, EOS
from dualm.data.windows import Packed
from dualm.objectives.example import Batch
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import Same

FIRST_ORDINARY = 16  # ids below are reserved
OBJECTIVES = {  # registered name: what in a recipe makes every micro-batch one of it
    "autoregressive": ObjectiveConfig(alpha=1.0),
    "prefix": ObjectiveConfig(alpha=1.0, prefix_fraction=1.0),
    "masked_diffusion": ObjectiveConfig(alpha=0.0),
}


def tokens(count: int, vocab: int, document: int, seed: int = 0) -> np.ndarray:
    """`[count]` tokens of packed documents, about `document` tokens each, with Zipf's frequencies (so a model can
    learn something)."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, vocab - FIRST_ORDINARY + 1)
    stream = rng.choice(vocab - FIRST_ORDINARY, count, p=frequency / frequency.sum()) + FIRST_ORDINARY
    starts = np.flatnonzero(rng.random(count) < 1 / document)
    stream[starts] = BOS
    stream[np.maximum(starts, 1) - 1] = EOS
    stream[0] = BOS
    return stream


@dataclass(frozen=True)
class ArrayStream:
    """A token stream in memory."""

    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.tokens[start:stop]


def packed(tokens: np.ndarray, context: int) -> Packed:
    return Packed(ArrayStream(tokens), context)


def recipe(
    model: ModelConfig,
    objective: ObjectiveConfig,
    global_batch: int,
    micro_batch: int,
    steps: int = 1,
    precision: str = "fp32",
) -> Recipe:
    train = TrainConfig(steps=steps, global_batch=global_batch, micro_batch=micro_batch, precision=precision)
    return Recipe(model=model, objective=objective, train=train)


def training_batches(of: Recipe, document: int, seed: int = 0, keep_in_document: bool = True) -> TrainingBatches:
    """The recipe's batches over synthetic tokens; `keep_in_document=False` leaves document ids out."""
    of = replace(of, data=DataConfig(keep_in_document=keep_in_document))
    steps, train = of.train.steps or 1, of.train
    stream = tokens(steps * train.global_batch * of.model.context + 1, of.model.vocab, document, seed)
    return TrainingBatches.of(of, [Same(of.run.seed, packed(stream, of.model.context))])


def batch(name: str, model: ModelConfig, size: int, document: int, seed: int = 0) -> Batch:
    """One micro-batch of `size` sequences of the objective `name` (a key of OBJECTIVES)."""
    made_as, made = next(training_batches(recipe(model, OBJECTIVES[name], size, size), document, seed).step(0))
    assert made_as == name, (made_as, name)
    return made
