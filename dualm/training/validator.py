"""Reading the model while it trains: validation losses and text samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dualm.config import Recipe
from dualm.data.shards import Shards
from dualm.data.tokenizer import BOS
from dualm.data.windows import open_windows
from dualm.evaluation.readings import UNIGRAM, bits_per_byte, of_source
from dualm.evaluation.unigram import unigram_nll
from dualm.evaluation.validation import ValidationSet, validate
from dualm.generation.autoregressive import decode
from dualm.generation.diffusion import canvas, denoise
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling, before_end
from dualm.model.precision import autocast
from dualm.model.transformer import Transformer
from dualm.objectives.example import Batch
from dualm.plan.batches import TrainingBatches
from dualm.training.distributed import World


@dataclass(frozen=True)
class Validator:
    """Both methods are called by all ranks together, since a sharded model needs all of them."""

    recipe: Recipe
    world: World
    shards: Shards
    sets: dict[str | None, ValidationSet]  # None: windows of the whole split; the others of one source each
    baseline: dict[str, float]

    @classmethod
    def of(cls, recipe: Recipe, world: World, shards: Shards, batches: TrainingBatches) -> Validator:
        def of_source(name: str | None) -> ValidationSet:
            counts = shards.counts("valid", name)
            predicted = counts["tokens"] - counts["documents"]  # every token but <s>
            windows = open_windows(recipe.data, shards.stream("valid", name), recipe.model.context)
            return ValidationSet.of(recipe, windows, predicted / counts["bytes"])

        sets = {name: of_source(name) for name in dict.fromkeys([None, *(one.name for one in batches.budget.sources)])}
        data, unique = sets[None], [source.windows for source in batches.sources]
        mean, error = unigram_nll(data, unique, batches.budget.shares(), recipe.model.vocab)
        per_byte = data.tokens_per_byte / math.log(2)
        baseline = {UNIGRAM: mean, f"{UNIGRAM}_se": error, bits_per_byte(UNIGRAM): mean * per_byte}
        return cls(recipe, world, shards, sets, baseline)

    @torch.no_grad()
    def losses(self, engine: Any) -> dict[str, float]:
        """The `valid/...` metrics of the engine's model as it is."""

        def score(batch: Batch) -> torch.Tensor:
            return engine(*batch.to(self.world.device).arguments).nll

        engine.eval()
        row: dict[str, float] = {}
        for name, data in self.sets.items():
            found = validate(data, self.recipe, score, self.world.rank, self.world.size)
            row |= found if name is None else {of_source(metric, name): value for metric, value in found.items()}
        engine.train()
        return row | self.baseline

    def samples(self, model: Transformer, step: int) -> dict[str, str]:
        """A text by each mode of generation, drawn from (seed, step)."""
        length = min(self.recipe.validate.sample_tokens, self.recipe.model.context)
        if length < 2:
            return {}
        prompt, count = [np.array([BOS])], length - 1
        dice = [[Dice.of(self.recipe.run.seed, step, self.world.device)] for _ in ("ar", "md")]
        options, shifted = Denoising("ancestral_cached", steps=length), self.recipe.objective.shifted
        model.eval()
        with autocast(self.recipe.train.precision, self.world.device):
            ar = list(decode(model, prompt, count, dice[0], Sampling()))
            *_, md = denoise(model, canvas(prompt, count), dice[1], Sampling(), options, shifted)
        model.train()
        tokens = {"ar": np.concatenate(ar), "md": md.tokens[0]}
        return {mode: self.shards.tokenizer.decode(before_end(text)) for mode, text in tokens.items()}
