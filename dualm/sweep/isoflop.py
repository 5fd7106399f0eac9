"""Equal compute: the section `isoflop:` of a sweep file. Every model size spends every budget of training FLOPs.

    isoflop:
      budgets: [1e12, 4e12]                     training FLOPs of one run
      sizes: [{model.layers: 2, ...}, ...]      recipe keys of each size; or the path of a YAML file with such a list
      batch: {1e12: 16, 4e12: 32}               train.global_batch from that budget on; without it, that of the recipe
      tokens_per_parameter: [5, 100]            a size is left out of a budget that gives it fewer or more

A run with budget C trains on C / `size.flops_per_token` tokens (half of that where an objective reads each twice), rounded down to whole steps. This is the grid to which
approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2) fits its parabolas; see `dualm.analysis.isoflop`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualm.config import ModelConfig, Recipe
from dualm.errors import UserError
from dualm.model import size
from dualm.plan.mixture import Mixture, alpha_schedule

STEPS = 1000  # over which the mean cost of a step is taken
TOKENS, BATCH = "data.tokens", "train.global_batch"  # the recipe keys that a budget sets


@dataclass
class IsoFlop:
    budgets: list[float] = field(default_factory=list)  # FLOPs
    sizes: Any = None  # a list of mappings, or the path of one
    batch: dict[float, int] = field(default_factory=dict)
    tokens_per_parameter: list[float] | None = None  # smallest and largest; the input embedding is not counted

    def check(self, path: Path) -> None:
        if not self.budgets or min(self.budgets) <= 0:
            raise UserError(
                f"{path}: isoflop.budgets: got {self.budgets}, expected FLOPs above 0, such as [1e12, 4e12]"
            )
        if self.batch and min(self.batch) > min(self.budgets):
            first, budget = min(self.batch), min(self.budgets)
            raise UserError(f"{path}: isoflop.batch: got sizes from {first:g} FLOPs on, expected one for {budget:g}")
        bounds = self.tokens_per_parameter
        if bounds is not None and not (len(bounds) == 2 and 0 < bounds[0] < bounds[1]):
            raise UserError(
                f"{path}: isoflop.tokens_per_parameter: got {bounds}, expected the smallest and the largest"
            )

    @property
    def keys(self) -> list[str]:
        """The recipe keys that depend on the budget."""
        return [TOKENS, BATCH] if self.batch else [TOKENS]

    def batch_at(self, budget: float) -> dict[str, int]:
        """The batch at `budget`: the entry with the largest key that is not above it."""
        return {BATCH: self.batch[max(first for first in self.batch if first <= budget)]} if self.batch else {}

    def keeps(self, model: ModelConfig, budget: float) -> bool:
        """Whether `budget` gives `model` a number of tokens per parameter within the bounds."""
        if self.tokens_per_parameter is None:
            return True
        smallest, largest = self.tokens_per_parameter
        tokens = budget / size.flops_per_token(model, model.context)
        return smallest <= tokens / size.parameter_count(model, embedding=False) <= largest


def tokens_of(recipe: Recipe, budget: float) -> int:
    """The tokens, in whole steps, that `recipe` trains on with `budget` FLOPs.

    Raises UserError if the budget is below the cost of one step, or the recipe sets a number of steps itself.
    """
    step = recipe.train.global_batch * recipe.model.context
    alphas = alpha_schedule(recipe.objective.alpha, recipe.data.repetitions, STEPS)
    read = Mixture.of(alphas, 1, recipe.objective).sequences_read(0, STEPS)
    cost = step * read * size.flops_per_token(recipe.model, recipe.model.context)
    if budget < cost:
        raise UserError(f"isoflop.budgets: got {budget:g} FLOPs, expected at least one step's {cost:.3g}")
    if recipe.train.steps is not None:
        raise UserError(f"train.steps: got {recipe.train.steps}, expected null: isoflop.budgets says how long to train")
    return int(budget // cost) * step
