"""Training batches as a pure function of (step, micro-batch).

    plan     slot of the sequence -> window           dualm.data.plan
    mixture  micro-batch -> objective                 dualm.objectives.mixture
    time     global batch, objective -> quantiles u   one draw for all sequences of the step that share it
    noise    (seed, step, sequence) -> mask           a stream of its own for every sequence

A rank of a larger world asks for fewer of the same micro-batches, so the loss of a step does not depend on
who computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dualm.config import Recipe
from dualm.data.plan import Budget, Order
from dualm.objectives import OBJECTIVES, time_sampler
from dualm.objectives.example import Batch, Objective, collate
from dualm.objectives.mixture import Mixture, alpha_schedule
from dualm.objectives.time import TimeSampler
from dualm.randomness import stream

# (start, stop) -> tokens [stop - start] of the training stream
ReadTokens = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class TrainingBatches:
    recipe: Recipe
    budget: Budget
    mixture: Mixture
    order: Order
    objectives: dict[str, Objective]
    time: TimeSampler
    read: ReadTokens

    @classmethod
    def of(cls, recipe: Recipe, read: ReadTokens) -> TrainingBatches:
        train, config = recipe.train, recipe.objective
        budget = Budget.of(recipe)
        alpha = alpha_schedule(config.alpha, budget.repetitions, budget.steps)
        mixture = Mixture.of(alpha, train.global_batch // train.micro_batch, config.prefix_fraction)
        order = Order(recipe.run.seed, budget.windows, train.micro_batch, mixture.is_ar, mixture.ar_before)
        objectives = {name: build(config) for name, build in OBJECTIVES.items()}
        return cls(recipe, budget, mixture, order, objectives, time_sampler(config), read)

    def plan(self, step: int) -> tuple[list[str], np.ndarray]:
        """The objective of every micro-batch of a step, and u of every sequence `[micro_batches, micro_batch]`.

        u is drawn for all sequences of the global batch that share an objective at once.
        """
        first, size = step * self.mixture.per_step, self.recipe.train.micro_batch
        names = [self.mixture.name(first + place) for place in range(self.mixture.per_step)]
        u = np.empty((len(names), size))
        for number, name in enumerate(OBJECTIVES):
            places = [place for place, other in enumerate(names) if other == name]
            drawn = self.time.draw(stream(self.recipe.run.seed, "time", step, number), len(places) * size)
            u[places] = drawn.reshape(len(places), size)
        return names, u

    def step(self, step: int, rank: int = 0, world: int = 1) -> Iterator[tuple[str, Batch]]:
        """The micro-batches of `step` that are `rank`'s: the name of their objective and their tensors."""
        names, u = self.plan(step)
        for place in range(rank, self.mixture.per_step, world):
            yield names[place], self._micro_batch(step, place, self.objectives[names[place]], u[place])

    def for_rank(self, rank: int, world: int, first_step: int) -> Iterator[tuple[str, Batch]]:
        """The micro-batches of one rank, in order, from `first_step` to the end of training."""
        for step in range(first_step, self.budget.steps):
            yield from self.step(step, rank, world)

    def _micro_batch(self, step: int, place: int, objective: Objective, u: np.ndarray) -> Batch:
        seed, length = self.recipe.run.seed, self.budget.context
        sequences = place * len(u) + np.arange(len(u))
        windows = self.order.windows_at(step * self.budget.batch + sequences)
        examples = [
            objective(
                self.read(window * length, (window + 1) * length + 1), u[row], stream(seed, "noise", step, sequence)
            )
            for row, (window, sequence) in enumerate(zip(windows.tolist(), sequences.tolist(), strict=True))
        ]
        return collate(examples, self.recipe.data.keep_in_document)
