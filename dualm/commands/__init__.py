"""The commands of `dualm`: one thin file each, with HELP, `add_arguments(parser)` and `run(arguments)`.

They import what they need when they run, so that `dualm --help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

COMMANDS = (
    "prepare",
    "plan",
    "train",
    "show",
    "generate",
    "evaluate",
    "locality",
    "quality",
    "lm-eval",
    "export",
    "sweep",
    "results",
    "analyze",
    "keys",
)


def module(command: str) -> ModuleType:
    return import_module(f"dualm.commands.{command.replace('-', '_')}")
