"""A run directory, as everything downstream of training reads it: its metrics and its whole checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dualm.errors import UserError
from dualm.files import sha256

MANIFEST = "manifest.json"
READ = ("model.safetensors", "config.json", "tokenizer.json")  # all of a checkpoint that readers of the model need


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, one per step and kind, the last written of each; a torn last line is left out."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        kind = row.get("event", "valid" if is_validation(row) else "train")
        rows[row["step"], kind] = row
    return [rows[key] for key in sorted(rows)]


def is_validation(row: Mapping[str, Any]) -> bool:
    """Whether a row of metrics is a validation's."""
    return any(name.startswith("valid/") for name in row)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))


def newest_whole(
    run: Path, names: Iterable[str] | None = None, say: Callable[[str], None] | None = None
) -> Path | None:
    """The newest checkpoint of `run` whose files match their checksums; None if there is no checkpoint at all.

    Damaged ones are passed over, and said so. `names` limits the check to those files.
    Raises UserError if every checkpoint is damaged.
    """
    say = say or (lambda text: print(text, file=sys.stderr))
    folders = checkpoints(run)
    for folder in reversed(folders):
        defect = find_defect(folder, names)
        if defect is None:
            return folder
        say(f"{folder}: {defect}; trying the checkpoint before it")
    if folders:
        raise UserError(f"{run / 'checkpoints'}: none of the {len(folders)} checkpoints is whole")
    return None


def find_defect(folder: Path, names: Iterable[str] | None = None) -> str | None:
    """What is wrong with a checkpoint (or with its files `names`), in a few words, or None."""
    try:
        digests: dict[str, str] = json.loads((folder / MANIFEST).read_text())["files"]
        expected = digests if names is None else {name: digests[name] for name in names}
    except (OSError, ValueError, KeyError):
        return "manifest missing or unreadable"
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    found = checksums(folder, expected)
    altered = [name for name, digest in expected.items() if found[name] != digest]
    return f"{altered[0]} is truncated or altered" if altered else None


def checksums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 of the files `names` of `folder`, or of every file below it but the manifest, by relative path."""
    if names is None:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        names = (str(path.relative_to(folder)) for path in files)
    names = sorted(names)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(sha256, [folder / name for name in names]), strict=True))
