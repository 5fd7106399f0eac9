"""`dualm plan RECIPE [key=value ...]`: what it would cost, without doing it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from dualm.commands.options import add_recipe
from dualm.config import load

if TYPE_CHECKING:
    from dualm.config import Recipe
    from dualm.training.cost import Cost

HELP = "say what the recipe costs, without training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--gpus", type=int, default=1, help="ranks that share the work (default 1)")
    parser.add_argument("--flops", type=float, default=4e14, help="FLOP/s that one GPU sustains (default 4e14)")


def run(arguments: argparse.Namespace) -> None:
    from dualm.training.cost import cost

    recipe = load(arguments.recipe, arguments.overrides)
    if recipe.model.init_from is not None:
        from dualm.interop.initialize import check_sizes

        check_sizes(recipe.model)
    costs = cost(recipe, arguments.gpus)
    used = corpus_used(recipe)
    Console().print(plan_summary(arguments.recipe, costs, used, arguments.gpus, arguments.flops))


def corpus_used(recipe: Recipe) -> list[str]:
    """How much of each source the recipe uses. Raises UserError if one has too few tokens."""
    from dualm.data.prepare import prepared
    from dualm.data.shards import Shards
    from dualm.plan.passes import open_passes, uses

    folder = prepared(recipe.data, recipe.model.vocab)
    if folder is None:
        return ["known once the shards are there: dualm prepare"]
    shards = Shards.open(folder, verify=False)
    return list(map(str, uses(recipe, shards, open_passes(recipe, shards))))


def plan_summary(name: str, cost: Cost, used: list[str], gpus: int, flops_per_second: float) -> RenderableType:
    """What `dualm plan` says of a recipe. `used`: how much of each source the unique tokens are."""
    budget = cost.budget
    hours = cost.flops / (flops_per_second * gpus) / 3600
    trained = {name: count for name, count in cost.sequences.items() if count}
    rows: dict[str, Any] = {
        "parameters": f"{cost.parameters:,} ({cost.parameters_without_embedding:,} without the input embedding)",
        "token budget T": f"{budget.tokens:,}",
        "repetitions R": f"{budget.repetitions:,}",
        "unique tokens": f"{budget.unique_tokens:,} in {budget.windows:,} windows of {budget.context:,}",
        "of the corpus": "\n".join(used),
        "steps": f"{budget.steps:,} of {budget.batch:,} sequences ({cost.accumulation} micro-batches per GPU and step)",
        "tokens trained on": f"{cost.trained_tokens:,}",
        "sequences by objective": ", ".join(f"{name} {count:,}" for name, count in trained.items()),
        "AR ratio alpha": f"{cost.mean_alpha:.6g}",
        "AR / MD exposures per token": f"{cost.ar_exposures:.4g} / {cost.md_exposures:.4g}",
        "training FLOPs": f"{cost.flops:.3e} (6N + 12·layers·heads·head_dim·L per token)",
        f"hours on {gpus} x {flops_per_second:.3g} FLOP/s": f"{hours:,.3g}",
        "GiB per GPU, ZeRO 0 / 1 / 2 / 3": " / ".join(f"{gib:.2f}" for gib in cost.memory),
    }
    table = Table(title=name, show_header=False, box=box.SIMPLE, title_justify="left")
    for key, value in rows.items():
        table.add_row(key, value)
    return table
