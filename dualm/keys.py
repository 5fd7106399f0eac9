"""Recipe keys: default, help and bounds, kept beside the field of the dataclass that declares them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import field, fields
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The range of a number."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def hold(self, value: float) -> bool:
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        low = self.ge if self.gt is None else self.gt
        high = self.le if self.lt is None else self.lt
        if high is None:
            return f"a number above {low}" if self.ge is None else f"{low} or more"
        brackets = ("[" if self.gt is None else "(", "]" if self.lt is None else ")")
        return f"a number in {brackets[0]}{low}, {high}{brackets[1]}"


def key(default: Any, help: str, *, shards: bool = True, **bounds: float) -> Any:
    """A recipe key: its default, what it means, its `Bounds`.

    `shards`: in the section `data`, whether the prepared shards depend on it.
    """
    metadata = {"help": help, "bounds": Bounds(**bounds), "shards": shards}
    if isinstance(default, list):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Key(NamedTuple):
    """What is known of a recipe key."""

    type: str
    default: Any
    help: str
    bounds: Bounds
    shards: bool


def described(recipe: Any) -> Iterator[tuple[str, Key]]:
    """Every key of a recipe of defaults by its dotted name, in the order of the dataclasses."""
    for section in fields(recipe):
        values = getattr(recipe, section.name)
        for one in fields(values):
            about = one.metadata
            default = getattr(values, one.name)
            yield (
                f"{section.name}.{one.name}",
                Key(str(one.type), default, about["help"], about["bounds"], about["shards"]),
            )
