"""All benchmarks: benchmarks/results.json, and the table of docs/results/speed.md.

    python -m benchmarks.run                    every module of ROWS, each in a process of its own
    python -m benchmarks.run training_step      these modules only; the rows of the others stay as they are
    python -m benchmarks.run --short            as little as possible, nothing is written: does every script still run?

A row that misses its target is a result, not an error. Only a script that breaks makes the command fail.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROWS = [  # modules of this package with `rows(short)`, in the order of the table
    "training_step",
    "training_limits",
    "training_memory",
    "generation",
    "scoring",
    "diffusion",
]
ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks/results.json", ROOT / "docs/results/speed.md"
BEGIN, END = "<!-- rows -->\n", "<!-- end of rows -->"
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")

Measured = dict[str, Any]  # a Row, and where and when it was measured


def measure(module: str, short: bool) -> list[Measured]:
    """The rows of one module, printed as they come."""
    found = []
    about = {"module": module, "date": date.today().isoformat(), **machine()}
    for row in importlib.import_module(f"benchmarks.{module}").rows(short):
        print(line({**asdict(row), "met": row.met}), flush=True)
        found.append({**asdict(row), "met": row.met, **about})
    return found


def machine() -> dict[str, Any]:
    """What a speed depends on; `load` is the number of other runnable processes, averaged over the last minute."""
    processors = re.findall(r"model name\s*: (.*)", _read("/proc/cpuinfo")) or [platform.processor()]
    return {
        "processor": processors[0],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def line(row: Measured) -> str:
    verdict, sign = "met   " if row["met"] else "missed", "≥" if row["at_least"] else "≤"
    ratio = f"{row['ratio']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
    return f"{verdict} {row['name']:52} {ratio:24} {sign} {row['target']:<6g} {row['note']}"


def table(rows: Sequence[Measured]) -> str:
    """In Markdown."""
    lines = ["| what | ratio (range) | target | met | measured |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = f"{row['ratio']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
        target = f"{'≥' if row['at_least'] else '≤'} {row['target']:g}"
        where = f"{row['date']}, {row['cores']} cores of {row['processor']}, load {row['load']:g}"
        note = f"{row['note']}; {where}" if row["note"] else where
        lines.append(f"| {row['name']} | {ratio} | {target} | {'yes' if row['met'] else '**no**'} | {note} |")
    return "\n".join(lines) + "\n"


def write(measured: Sequence[Measured], modules: Sequence[str]) -> None:
    """Replace the rows of `modules`, in the file and on the page."""
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = [row for row in old if row["module"] not in modules and row["module"] in ROWS]
    rows = sorted([*kept, *measured], key=lambda row: ROWS.index(row["module"]))
    RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[], metavar="module", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    modules = arguments.modules or ROWS
    measured: list[Measured] = []
    broken = []
    for module in modules:
        # A process of its own: no module sees the threads, allocator or caches of another.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                measured += process.submit(measure, module, arguments.short).result()
            except Exception as error:  # of any kind: the other modules go on
                print(f"BROKEN {module}: {type(error).__name__}: {error}", flush=True)
                broken.append(module)
    if not arguments.short:
        write(measured, [module for module in modules if module not in broken])
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
