"""The one exception that means "the user can fix this"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class UserError(Exception):
    """A user's mistake, told in one line: the file or key, the value, what was expected.

    The command line prints it on stderr without a traceback and exits with code 2.
    """


def choose(registry: Mapping[str, Entry], key: str, name: str) -> Entry:
    """The entry of a registry that a recipe key names. Raises UserError with the names there are."""
    if name not in registry:
        raise UserError(f"{key}: got {name!r}, expected {' or '.join(registry)}")
    return registry[name]
