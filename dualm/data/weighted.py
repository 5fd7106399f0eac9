"""Weighted sources: `data.train` as a list of texts, each with its share of the token budget and its own repetitions.

data:
  train:
    - {files: wiki/*.txt, weight: 0.7}
    - {files: [speech.txt], weight: 0.3, repetitions: 4, name: speech, valid: speech-valid.txt}

A source gets weight / (sum of weights) of the budget T, and spends it on its own subset, seen `repetitions` times (default
data.repetitions). Its name (default: that of its first file) is in the metrics: `valid/speech/ar_nll`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import PurePath
from typing import Any, NamedTuple

from dualm.config import DataConfig
from dualm.errors import UserError

KEYS = ("files", "weight", "repetitions", "name", "valid")


class WeightedSource(NamedTuple):
    name: str | None  # None: the only one
    data: DataConfig  # with its own files in `train` and `valid`
    share: Fraction  # of the token budget
    repetitions: int


def weighted_sources(data: DataConfig) -> list[WeightedSource]:
    """What `data.train` lists: one source without a name, or several with theirs.

    Raises:
        UserError: an entry that is neither a file nor a source, both mixed, a bad weight, or a name that comes twice.
    """
    if not any(isinstance(entry, dict) for entry in data.train):
        return [WeightedSource(None, data, Fraction(1), data.repetitions)]
    if data.valid:
        raise _mistake(data.valid, "none beside weighted sources, which name their own in `valid`", "data.valid")
    found = list(_sources(data))
    names = [source.name for source in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise _mistake(names, f"different names, not {sorted(map(str, twice))} twice; give `name`")
    total = sum(source.share for source in found)
    return [source._replace(share=source.share / total) for source in found]


def _sources(data: DataConfig) -> Iterator[WeightedSource]:
    for entry in data.train:
        if not isinstance(entry, dict):
            raise _mistake(entry, "a mapping like the other entries, such as {files: a.txt, weight: 0.5}")
        if unknown := set(entry) - set(KEYS):
            raise _mistake(entry, f"the keys {', '.join(KEYS)}, not {', '.join(sorted(map(str, unknown)))}")
        files, repetitions = _files(entry, "files"), entry.get("repetitions", data.repetitions)
        if not files:
            raise _mistake(entry, "`files`: a file, or a list of them")
        if not isinstance(repetitions, int) or isinstance(repetitions, bool) or repetitions < 1:
            raise _mistake(entry, "`repetitions`: an integer above 0")
        own = replace(data, train=files, valid=_files(entry, "valid"))
        yield WeightedSource(_name(entry, files), own, _weight(entry), repetitions)


def _files(entry: dict[str, Any], key: str) -> list[str]:
    files = entry.get(key) or []
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise _mistake(entry, f"`{key}`: a file, or a list of them")
    return files


def _weight(entry: dict[str, Any]) -> Fraction:
    weight = entry.get("weight")
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise _mistake(entry, "`weight`: a number above 0")
    return Fraction(str(weight))


def _name(entry: dict[str, Any], files: list[str]) -> str:
    name = entry.get("name") or re.sub(r"\W+", "-", PurePath(files[0]).stem).strip("-")
    if not re.fullmatch(r"\w[\w-]*", str(name)):
        raise _mistake(entry, "`name`: letters, digits, - and _")
    return str(name)


def _mistake(got: Any, expected: str, key: str = "data.train") -> UserError:
    return UserError(f"{key}: got {got!r}, expected {expected}")
