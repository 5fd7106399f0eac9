"""What a recipe costs, computed without data, weights or a GPU: `dualm plan`."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from dualm.config import Recipe
from dualm.data.windows import FORMATS
from dualm.errors import choose
from dualm.model import size
from dualm.model.attention import check_name
from dualm.objectives import OBJECTIVES
from dualm.plan.budget import Budget
from dualm.plan.mixture import Mixture, alpha_schedule
from dualm.training.engine import accumulation_steps
from dualm.training.optimizers import OPTIMIZERS, is_hidden_matrix
from dualm.training.schedules import SCHEDULES

GIB = 1024**3


@dataclass(frozen=True)
class Cost:
    parameters: int
    parameters_without_embedding: int
    budget: Budget
    accumulation: int  # micro-batches per rank and step
    mean_alpha: float
    sequences: dict[str, int]  # by objective
    flops: float  # of the whole training
    memory: list[float]  # GiB per GPU at ZeRO stage 0, 1, 2, 3

    @property
    def trained_tokens(self) -> int:
        return self.budget.sequences * self.budget.context

    @property
    def ar_exposures(self) -> float:
        """How often a unique token is trained autoregressively: alpha * R where the budget divides evenly."""
        return (self.sequences["ar"] + self.sequences["prefix"]) / self.budget.windows

    @property
    def md_exposures(self) -> float:
        return self.sequences["md"] / self.budget.windows


def cost(recipe: Recipe, gpus: int) -> Cost:
    """Check every name in the recipe and count what it asks for on `gpus` ranks.

    Raises:
        UserError: what `train` would refuse before it touches the data.
    """
    for objective in OBJECTIVES.values():
        objective(recipe.objective)
    choose(FORMATS, "data.format", recipe.data.format)
    choose(OPTIMIZERS, "optimizer.name", recipe.optimizer.name)
    choose(SCHEDULES, "schedule.name", recipe.schedule.name)
    check_name(recipe.model.attention)
    budget = Budget.of(recipe)
    alpha = alpha_schedule(recipe.objective.alpha, budget.repetitions, budget.steps)
    tokens = budget.sequences * budget.context
    return Cost(
        parameters=size.parameter_count(recipe.model),
        parameters_without_embedding=size.parameter_count(recipe.model, embedding=False),
        budget=budget,
        accumulation=accumulation_steps(recipe, gpus),
        mean_alpha=float(alpha.mean()),
        sequences=_sequences(
            recipe,
            Mixture.of(alpha, recipe.train.global_batch // recipe.train.micro_batch, recipe.objective.prefix_fraction),
            budget,
        ),
        flops=float(tokens) * size.flops_per_token(recipe.model, budget.context),
        memory=[memory(recipe, gpus, stage) / GIB for stage in range(4)],
    )


def memory(recipe: Recipe, gpus: int, stage: int) -> float:
    """Bytes per GPU: weights, gradients, optimizer state and activations; an estimate, without fragmentation.

    Weights and gradients are float32, as are AdamW's two moments and Muon's one. Stages 1 to 3 keep a second,
    partitioned copy of the weights for the optimizer (ZeRO, section 5). Their moving average is kept as they are.
    """
    shapes = size.shapes(recipe.model)
    total = sum(map(prod, shapes.values()))
    hidden = sum(prod(shape) for name, shape in shapes.items() if is_hidden_matrix(name, len(shape)))
    state = 8 * total - (4 * hidden if recipe.optimizer.name == "muon" else 0)
    parts = [gpus if stage >= needed else 1 for needed in (3, 2, 1)]
    weights, gradients = (4 + 4 * (recipe.optimizer.ema > 0)) * total / parts[0], 4 * total / parts[1]
    optimizer = (state + (4 * total if stage else 0)) / parts[2]
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    return (
        weights
        + gradients
        + optimizer
        + size.activation_bytes(recipe.model, recipe.train.micro_batch, recipe.model.context, dtype)
    )


def _sequences(recipe: Recipe, mixture: Mixture, budget: Budget) -> dict[str, int]:
    micros = budget.steps * mixture.per_step
    ar = int(mixture.ar_before(np.int64(micros)))
    prefix = mixture.prefixes_before(ar)
    counts = {"ar": ar - prefix, "prefix": prefix, "md": micros - ar}
    return {name: count * recipe.train.micro_batch for name, count in counts.items()}
