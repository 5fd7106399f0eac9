"""Registries: the choices there are for one recipe key or one option, each an entry by name.

    DENSITIES = Registry("objective.time", {"uniform": ..., "bell": ...})

A registry is the only list of its choices: recipes read it by `choose`, checks and the table of recipe keys through
`REGISTRIES`. A new entry is one line; nothing depends on its position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from dualm.errors import UserError

Entry = TypeVar("Entry")

REGISTRIES: dict[str, Registry[Any]] = {}  # by key, of every module that is imported


class Registry(dict[str, Entry]):
    """Entries by name; `key` is the recipe key or option that names one of them."""

    def __init__(self, key: str, entries: Mapping[str, Entry]) -> None:
        super().__init__(entries)
        self.key = key
        REGISTRIES[key] = self

    def choose(self, name: str, key: str | None = None) -> Entry:
        """The entry `name`. Raises UserError that names the key (`key` instead of its own) and the choices."""
        if name not in self:
            raise UserError(f"{key or self.key}: got {name!r}, expected {' or '.join(self)}")
        return self[name]


def check_choices(flat: Mapping[str, Any]) -> None:
    """Refuse a value of the recipe `flat`, by dotted key, that is in no registry of its key. Raises UserError."""
    for key, registry in REGISTRIES.items():
        if key in flat:
            registry.choose(flat[key])
