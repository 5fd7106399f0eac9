"""Training batches as a pure function of (step, micro-batch).

    order    slot of the sequence -> place            dualm.plan.order
    passes   place -> window                          dualm.plan.passes
    mixture  micro-batch -> objective                 dualm.plan.mixture
    time     global batch, objective -> quantiles u   one draw for all sequences of the step that share it
    noise    (seed, step, sequence) -> mask           a stream of its own for every sequence

    length   micro-batch -> all of its windows, or pieces of one random length (data.random_length)

A rank of a larger world asks for fewer of the same micro-batches, so the loss of a step does not depend on
who computed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dualm.config import ObjectiveConfig, Recipe
from dualm.data.tokenizer import PAD
from dualm.data.windows import Window
from dualm.objectives import OBJECTIVES
from dualm.objectives.example import Batch, Example, Objective, collate
from dualm.objectives.time import DRAWS, Density, density
from dualm.plan.budget import Budget
from dualm.plan.mixture import Mixture, alpha_schedule
from dualm.plan.order import Order
from dualm.plan.passes import Passes
from dualm.plan.shares import Shares
from dualm.randomness import stream


@dataclass(frozen=True)
class TrainingBatches:
    recipe: Recipe
    budget: Budget
    mixture: Mixture
    order: Order
    sources: Sequence[Passes]
    objectives: Mapping[str, Objective]

    @classmethod
    def of(cls, recipe: Recipe, sources: Sequence[Passes]) -> TrainingBatches:
        train, config = recipe.train, recipe.objective
        budget = Budget.of(recipe)
        alpha = alpha_schedule(config.alpha, budget.repetitions, budget.steps)
        mixture = Mixture.of(alpha, train.global_batch // train.micro_batch, config)
        shares = Shares.of(0, {number: share for number, share in enumerate(budget.shares()) if number})
        unique = [source.windows for source in budget.sources]
        order = Order(unique, shares, train.micro_batch, mixture.is_ar, mixture.ar_before)
        return cls(recipe, budget, mixture, order, sources, built(config, density(config)))

    def with_time(self, time: Density) -> TrainingBatches:
        """The same batches, but for the density of t."""
        return replace(self, objectives=built(self.recipe.objective, time))

    def plan(self, step: int) -> tuple[list[str], np.ndarray]:
        """The objective of every micro-batch of a step, and u of every sequence `[micro_batches, micro_batch]`.

        u is drawn for all sequences of the global batch that share an objective at once, and dealt to them in a random order: so
        each micro-batch has mask rates from all over, and each rank about as many supervised tokens as any other.
        """
        first, size = step * self.mixture.per_step, self.recipe.train.micro_batch
        names = [self.mixture.name(first + micro) for micro in range(self.mixture.per_step)]
        u = np.empty((len(names), size))
        draw = DRAWS[self.recipe.objective.draws]
        for name in set(names):
            micros = [micro for micro, other in enumerate(names) if other == name]
            rng = stream(self.recipe.run.seed, f"time {name}", step)
            u[micros] = rng.permutation(draw(rng, len(micros) * size)).reshape(len(micros), size)
        return names, u

    def step(self, step: int, rank: int = 0, world: int = 1) -> Iterator[tuple[str, Batch]]:
        """The micro-batches of `step` that are `rank`'s: the name of their objective and their tensors."""
        names, u = self.plan(step)
        for micro in range(rank, self.mixture.per_step, world):
            yield names[micro], self._micro_batch(step, micro, self.objectives[names[micro]], u[micro])

    def for_rank(self, rank: int, world: int, first_step: int) -> Iterator[tuple[str, Batch]]:
        """The micro-batches of one rank, in order, from `first_step` to the end of training."""
        for step in range(first_step, self.budget.steps):
            yield from self.step(step, rank, world)

    def _micro_batch(self, step: int, micro: int, objective: Objective, u: np.ndarray) -> Batch:
        seed, length = self.recipe.run.seed, self.budget.context
        chance = stream(seed, "length", step, micro)
        if chance.random() < self.recipe.data.random_length:
            length = int(chance.integers(2, length, endpoint=True))
        sequences = micro * len(u) + np.arange(len(u))
        examples: list[Example] = []
        for row, sequence in enumerate(sequences.tolist()):
            rng = stream(seed, "noise", step, sequence)
            window = self.window(step * self.budget.batch + sequence)
            examples += in_pieces(window, length, u[row], rng, objective)
        return collate(examples, self.recipe.data.keep_in_document)

    def window(self, slot: int) -> Window:
        """The window in a slot of training, counted from its first sequence."""
        place = self.order.place(slot)
        return self.sources[place.source].window(place.epoch, place.half, place.number)


def built(config: ObjectiveConfig, time: Density) -> dict[str, Objective]:
    """Every registered objective, with mask rates of density `time`."""
    return {name: entry.build(config, time) for name, entry in OBJECTIVES.items()}


def in_pieces(window: Window, length: int, u: float, rng: np.random.Generator, objective: Objective) -> list[Example]:
    """Examples of `length` positions that cover a window `[L + 1]` end to end, the last one padded.

    No token of the budget is lost, as it would be if the window were cut off. The weights of each piece hold its share
    of the window, times the number of pieces: so the mean over all pieces of a micro-batch is the mean over its windows.
    """
    whole = len(window.inputs)
    if length == whole:
        return [objective(window, u, rng)]
    starts = range(0, whole, length)
    numbers = np.zeros_like(window.tokens) if window.pieces is None else window.pieces
    examples = []
    for number, start in enumerate(starts):
        tokens, pieces = (row[start : start + length + 1] for row in (window.tokens, numbers))
        share = (len(tokens) - 1) / whole * len(starts)
        rest = (0, length + 1 - len(tokens))
        tokens, pieces = np.pad(tokens, rest, constant_values=PAD), np.pad(pieces, rest, mode="edge")
        piece = Window(tokens, max(0, window.given - start), pieces)
        example = objective(piece, (u + number / len(starts)) % 1.0, rng)
        examples.append(example.scaled(share))
    return examples
