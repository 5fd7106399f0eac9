"""The files of an evaluation: JSON with its settings and results, CSV with its results. No measurement overwrites another.

The name of a file ends in a digest of the settings, so that the same measurement again replaces its own files and
every other one gets files of its own. The settings stand in the JSON file exactly as the digest sees them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from dualm.errors import UserError
from dualm.files import without_nan, write_json, write_text

DIGITS = 8  # of the digest, hexadecimal


def distinguishing(value: Any) -> Any:
    """A nest of settings as JSON can hold it: paths in full, without the fields that change no number (`compare=False`)."""
    if is_dataclass(value):
        return {field.name: distinguishing(getattr(value, field.name)) for field in fields(value) if field.compare}
    if isinstance(value, (list, tuple)):
        return [distinguishing(inner) for inner in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def file_name(label: Sequence[str], about: Mapping[str, Any]) -> str:
    """The name, without a suffix, of the files of a measurement; `about` holds everything that decides its numbers."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return "-".join([*label, digest[:DIGITS]]).replace("/", "_").replace(":", "_")


def make_folder(folder: Path) -> None:
    """Raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}, expected a folder for the results") from None


def write(
    folder: Path, name: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """`folder/name.json` with `about`, nested results and their summary; `folder/name.csv` with one line for each result."""
    write_json(folder / f"{name}.json", {**about, "results": rows, **summary})
    lines = [line for row in rows for line in [row, *row.get("subtasks", ())]]
    write_text(folder / f"{name}.csv", csv_text(lines))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, without what is nested in them; the first row says which columns there are."""
    columns = [name for name, value in rows[0].items() if not isinstance(value, (list, tuple, dict))]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(without_nan(list(rows)))
    return text.getvalue()
