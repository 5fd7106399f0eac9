"""Checks every CUDA-only path of dualm against the CPU, then measures speed. One call, under nine minutes on an H100:

    python -m benchmarks.gpu.check --peak 989 --out gpu-results      from the root of the repository
    python -m benchmarks.gpu.check --quick                           about three minutes
    python -m benchmarks.gpu.check --device cpu                      tiny dry run of this script itself, sdpa only

Every section is a process of its own, so that a crash or a hang costs only that section; every case in it is guarded.
Writes results.json and log.txt (tracebacks). Exit code: 0 nothing failed, 1 something failed, 3 no CUDA device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.harness import Cases, Numbers, Settings

GRACE = 30  # seconds that a section may run past its share before it is ended
PACKAGES = ("torch", "triton", "flash_attn", "xformers", "deepspeed", "numpy", "omegaconf")


@dataclass(frozen=True)
class Section:
    run: Callable[[Cases], None]
    seconds: int  # its share; no case begins later
    quick: int  # the same with --quick; 0: left out


def sections() -> dict[str, Section]:
    """In order. Imported late: the parent process needs none of it."""
    from benchmarks.gpu import attention, engine, model, reading, speed

    return {
        "ceilings": Section(speed.measure_ceilings, 30, 15),
        **{
            f"attention-{backend}": Section(partial(attention.check, backend=backend), seconds, quick)
            for backend, seconds, quick in (("sdpa", 30, 10), ("flash", 30, 10), ("xformers", 30, 10), ("flex", 70, 25))
        },
        "model": Section(model.check, 60, 20),
        "compiled": Section(model.check_compiled, 110, 25),
        "training": Section(model.check_training, 40, 15),
        "engine": Section(engine.check, 120, 0),
        "reading": Section(reading.check, 40, 15),
        "speed-generation": Section(reading.measure, 30, 0),
        "speed-attention": Section(speed.measure_attention, 50, 10),
        "speed-training": Section(speed.measure_training, 330, 25),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="results' folder")
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--minutes", type=float, help="of the whole run (8.5; with --quick 3)")
    parser.add_argument("--peak", type=float, help="the datasheet's dense bf16 TFLOP/s (989 for H100 and H200 SXM)")
    parser.add_argument("--seed", type=int, help="of the random inputs; drawn at random and printed by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: dry run of this script")
    parser.add_argument("--only", nargs="*", help="run these sections only")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)  # what follows is for a section's process
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--ceiling", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if arguments.part:
        return run_here(arguments)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing checked")
        return 3
    if arguments.device == "cpu":
        print("Dry run on the CPU: it exercises this script and says nothing about a GPU.")
    arguments.seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    arguments.minutes = arguments.minutes or (3 if arguments.quick else 8.5)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "log.txt").write_text("")
    return run_all(arguments)


def run_all(arguments: argparse.Namespace) -> int:
    """Every section in its turn; results.json is whole after each."""
    end = time.monotonic() + 60 * arguments.minutes
    results: Numbers = {"environment": environment(arguments), "cases": []}
    print(json.dumps(results["environment"]), flush=True)
    for name, section in sections().items():
        if arguments.only and name not in arguments.only:
            continue
        share = min(section.quick if arguments.quick else section.seconds, end - time.monotonic() - GRACE / 3)
        rows = [_row(name, "SKIP", "out of time" if share else "left out by --quick")]
        if share > 0:
            rows = run_section(name, share, arguments, results["cases"])
        results["cases"] += rows
        (arguments.out / "results.json").write_text(json.dumps(results, indent=1))
    print(summary(results["cases"]))
    print(f"seed {arguments.seed}; {arguments.out / 'results.json'}, tracebacks in {arguments.out / 'log.txt'}")
    return int(any(row["status"] == "FAIL" for row in results["cases"]))


def run_section(name: str, seconds: float, arguments: argparse.Namespace, before: list[Numbers]) -> list[Numbers]:
    """Start a section's process, wait, and return its cases."""
    measured = [row["numbers"] for row in before if row["name"] == "bf16 matrix product" and row["status"] == "PASS"]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        command = [sys.executable, "-m", "benchmarks.gpu.check", "--only", name, "--part", str(part)]
        command += ["--seconds", str(seconds), "--seed", str(arguments.seed), "--device", arguments.device]
        command += ["--out", str(arguments.out), *(["--quick"] if arguments.quick else [])]
        command += ["--peak", str(arguments.peak)] if arguments.peak else []
        command += ["--ceiling", str(measured[0]["flops_per_second"])] if measured else []
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(seconds + GRACE)
            ended = "" if process.returncode == 0 else f"ended with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"ended after {seconds + GRACE:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        rows = json.loads(part.read_text()) if part.exists() else []
    return rows + ([_row(name, "FAIL", ended)] if ended else [])


def run_here(arguments: argparse.Namespace) -> int:
    """A section, in this process."""
    name = arguments.only[0]
    settings = Settings(
        device=torch.device(arguments.device),
        quick=arguments.quick,
        seed=arguments.seed,
        deadline=time.monotonic() + arguments.seconds,
        peak=arguments.peak * 1e12 if arguments.peak else None,
        ceiling=arguments.ceiling,
    )
    sections()[name].run(Cases(name, settings, arguments.part, arguments.out / "log.txt"))
    return 0


def environment(arguments: argparse.Namespace) -> Numbers:
    facts: Numbers = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    if arguments.device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
        facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        facts["cuda"] = torch.version.cuda
    return facts | {"seed": arguments.seed, "quick": arguments.quick, "peak": arguments.peak}


def summary(cases: list[Numbers]) -> str:
    """The speeds, what failed, and a line per section."""
    lines = ["", "speed"]
    for row in cases:
        numbers = row["numbers"]
        if row["status"] == "PASS" and ("ms" in numbers or "both_ms" in numbers or "tokens_per_second" in numbers):
            lines.append(f"  {row['name']:<36} " + "  ".join(_measured(numbers)))
    lines += ["failed", *(f"  {r['section']}: {r['name']}: {r['reason']}" for r in cases if r["status"] == "FAIL")]
    lines.append(f"{'section':<18} {'PASS':>5} {'FAIL':>5} {'SKIP':>5}")
    for section in dict.fromkeys(row["section"] for row in cases):
        count = Counter(row["status"] for row in cases if row["section"] == section)
        why = {row["reason"] for row in cases if row["section"] == section and row["status"] == "SKIP"}
        lines.append(
            f"{section:<18} {count['PASS']:>5} {count['FAIL']:>5} {count['SKIP']:>5}  {'; '.join(sorted(why))}"
        )
    return "\n".join(lines)


def _measured(numbers: Numbers) -> list[str]:
    forms = {
        "forward_ms": "forward {:.3f} ms",
        "both_ms": "with backward {:.3f} ms",
        "lower_ms": "lowering {:.3f} ms",
        "ms": "{:.2f} ms",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu_of_ceiling": "{:.1%} of the measured ceiling",
        "mfu_of_datasheet": "{:.1%} of the datasheet",
        "peak_gib": "{:.2f} GiB",
    }
    return [form.format(numbers[key]) for key, form in forms.items() if numbers.get(key) is not None]


def _row(section: str, status: str, reason: str) -> Numbers:
    return {"section": section, "name": "the section", "status": status, "reason": reason, "seconds": 0, "numbers": {}}


if __name__ == "__main__":
    sys.exit(main())
