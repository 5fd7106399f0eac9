"""`dualm keys [PREFIX]`: every recipe key with its default, its bounds or choices, and what it means."""

from __future__ import annotations

import argparse
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dualm import config
from dualm.errors import UserError
from dualm.keys import Bounds

HELP = "list the keys of a recipe: default, bounds or choices, meaning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", help="those of such names alone, for instance objective.time")
    parser.add_argument("--markdown", action="store_true", help="as the page docs/recipe-keys.md")


def run(arguments: argparse.Namespace) -> None:
    rows = [row for row in key_rows() if row[0].startswith(arguments.prefix)]
    if not rows:
        raise UserError(f"keys: got {arguments.prefix!r}, expected the beginning of a key such as objective.alpha")
    if arguments.markdown:
        print(page(rows))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("key", "default", "values", "meaning"):
        table.add_column(heading, no_wrap=heading == "key")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def key_rows() -> list[tuple[str, str, str, str]]:
    """Key, default, values and meaning of every key."""
    import dualm.training.cost  # noqa: F401  (which imports all registries)
    from dualm.objectives import HALVES, choices
    from dualm.registry import REGISTRIES

    named = REGISTRIES | {f"objective.{half}": choices(half) for half in HALVES}
    return [
        (name, shown(key.default), " ".join(named.get(name, ())) or values(key.type, key.bounds), key.help)
        for name, key in config.keys().items()
    ]


def shown(default: Any) -> str:
    """A default as a recipe would write it."""
    if default is None or default == []:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def values(kind: str, bounds: Bounds) -> str:
    if bounds != Bounds():
        return str(bounds).removeprefix("a number ")
    return {"bool": "true false"}.get(kind, "")


def page(rows: list[tuple[str, str, str, str]]) -> str:
    lines = [
        "# Recipe keys",
        "",
        "Printed by `dualm keys --markdown`. A recipe is a YAML file with these keys by section; `key=value` on the command",
        "line overrides them.",
        "",
        "| key | default | values | meaning |",
        "|---|---|---|---|",
    ]
    for key, default, allowed, help in rows:
        cells = (f"`{key}`", f"`{default}`" if default else "", allowed, help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines)
