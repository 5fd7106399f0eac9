"""What a recipe costs, computed without data, weights or a GPU: `dualm plan`."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dualm.config import Recipe, flatten
from dualm.data import (
    corpus,
    units,  # noqa: F401  (for check_choices, its registry)
    windows,  # noqa: F401  (the same)
)
from dualm.data.weighted import weighted_sources
from dualm.errors import UserError
from dualm.model import (
    attention,  # noqa: F401  (the same)
    initialization,  # noqa: F401  (the same)
    size,
)
from dualm.model.precision import PRECISIONS
from dualm.objectives import HALVES, OBJECTIVES, Half
from dualm.plan.budget import Budget
from dualm.plan.mixture import Mixture, alpha_schedule
from dualm.registry import check_choices
from dualm.training import schedules  # noqa: F401  (the same)
from dualm.training.optimizers import OPTIMIZERS

GIB = 1024**3


@dataclass(frozen=True)
class Cost:
    parameters: int
    parameters_without_embedding: int
    budget: Budget
    accumulation: int  # micro-batches per rank and step
    mean_alpha: float
    sequences: dict[str, int]  # by objective
    flops: float  # of the whole training; an objective that reads a window twice counts twice
    memory: list[float]  # GiB per GPU at ZeRO stage 0, 1, 2, 3

    @property
    def trained_tokens(self) -> int:
        return self.budget.sequences * self.budget.context

    @property
    def ar_exposures(self) -> float:
        """How often a unique token is trained autoregressively: alpha * R where the budget divides evenly."""
        return self._exposures("ar")

    @property
    def md_exposures(self) -> float:
        return self._exposures("md")

    def _exposures(self, half: Half) -> float:
        trained = (count for name, count in self.sequences.items() if OBJECTIVES[name].half == half)
        return sum(trained) / self.budget.windows


def cost(recipe: Recipe, gpus: int) -> Cost:
    """Check every name in the recipe and count what it asks for on `gpus` ranks.

    Raises:
        UserError: what `train` would refuse before it touches the data.
    """
    check_choices(flatten(recipe))
    for source in weighted_sources(recipe.data):
        corpus.check_source(source.data)
    budget = Budget.of(recipe)
    alpha = alpha_schedule(recipe.objective.alpha, budget.repetitions, budget.steps)
    tokens = budget.sequences * budget.context
    per_step = recipe.train.global_batch // recipe.train.micro_batch
    mixture, micros = Mixture.of(alpha, per_step, recipe.objective), budget.steps * per_step
    return Cost(
        parameters=size.parameter_count(recipe.model),
        parameters_without_embedding=size.parameter_count(recipe.model, embedding=False),
        budget=budget,
        accumulation=accumulation_steps(recipe, gpus),
        mean_alpha=float(alpha.mean()),
        sequences={name: count * recipe.train.micro_batch for name, count in mixture.counts(micros).items()},
        flops=mixture.sequences_read(0, micros) * tokens * size.flops_per_token(recipe.model, budget.context),
        memory=[memory(recipe, gpus, stage) / GIB for stage in range(4)],
    )


def accumulation_steps(recipe: Recipe, world_size: int) -> int:
    """Micro-batches each rank runs per step. Raises UserError where they don't divide."""
    train = recipe.train
    if train.global_batch % (train.micro_batch * world_size):
        raise UserError(
            f"train.global_batch: got {train.global_batch}, expected a multiple of train.micro_batch * world size = "
            f"{train.micro_batch} * {world_size}"
        )
    return train.global_batch // (train.micro_batch * world_size)


def memory(recipe: Recipe, gpus: int, stage: int) -> float:
    """Bytes per GPU: weights, gradients, optimizer state and activations; an estimate, without fragmentation.

    Weights and gradients are float32. Stages 1 to 3 keep a second,
    partitioned copy of the weights for the optimizer (ZeRO, section 5). Their moving average is kept as they are.
    """
    shapes = size.shapes(recipe.model)
    total = sum(map(prod, shapes.values()))
    state = OPTIMIZERS.choose(recipe.optimizer.name).state_bytes(shapes)
    parts = [gpus if stage >= needed else 1 for needed in (3, 2, 1)]
    weights, gradients = (4 + 4 * (recipe.optimizer.ema > 0)) * total / parts[0], 4 * total / parts[1]
    optimizer = (state + (4 * total if stage else 0)) / parts[2]
    itemsize = PRECISIONS[recipe.train.precision].itemsize
    rows = recipe.train.micro_batch * max(OBJECTIVES[getattr(recipe.objective, half)].sequences for half in HALVES)
    activations = size.activation_bytes(recipe.model, rows, recipe.model.context, itemsize)
    return weights + gradients + optimizer + activations
