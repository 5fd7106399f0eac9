"""`dualm prepare RECIPE [key=value ...]`: corpus -> tokenizer -> token shards."""

from __future__ import annotations

import argparse

from dualm.commands.options import add_recipe
from dualm.config import load

HELP = "make token shards of the recipe's corpus"

add_arguments = add_recipe


def run(arguments: argparse.Namespace) -> None:
    from dualm.data.prepare import prepare

    recipe = load(arguments.recipe, arguments.overrides)
    print(prepare(recipe.data, recipe.model.vocab))
