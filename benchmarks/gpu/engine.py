"""Training through the DeepSpeed engine: ZeRO 1, AdamW and Muon, bf16 on the device against fp32 on the CPU.

Each side runs in a process of its own, because DeepSpeed decides once per process what device it is on:

    CUDA_VISIBLE_DEVICES= DS_ACCELERATOR=cpu TORCH_COMPILE_DISABLE=1 \\
        python -m benchmarks.gpu.engine --out cpu.json adamw:fp32 muon:fp32
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.gpu.harness import Cases, Failed, Numbers, Settings, Skip, within
from benchmarks.gpu.model import BATCH, DOCUMENT, TINY
from benchmarks.gpu.speed import SIZES
from dualm.config import ObjectiveConfig, OptimizerConfig, Recipe
from dualm.model.transformer import Transformer
from dualm.training.distributed import World, world
from dualm.training.engine import build_engine
from dualm.training.optimizers import set_learning_rate

TOLERANCES = {"fp32": {"loss": 1e-3}, "bf16": {"loss": 1e-2}}  # of the worst of all steps
LEARNING_RATE = 2e-3
STEPS = 20


def check(cases: Cases) -> None:
    """Start both sides, then compare run by run."""
    if find_spec("deepspeed") is None:
        return cases.skip("DeepSpeed engine", "deepspeed not installed")
    runs = [f"{optimizer}:{precision}" for optimizer in ("adamw", "muon") for precision in TOLERANCES]
    speed = [] if cases.settings.quick or not cases.settings.on_gpu else ["adamw:bf16:125M", "muon:bf16:125M"]
    exact: Numbers = {}
    got: Numbers = {}
    cases.run("reference on the CPU", partial(collect, exact, "cpu", runs[::2], cases))
    cases.run("runs on the device", partial(collect, got, cases.settings.device.type, runs + speed, cases))
    for run in runs:
        cases.run(f"{run} ZeRO 1, {STEPS} steps", partial(compare, run, got, exact))
    for run in speed:
        cases.run(f"{run} ZeRO 1, speed", partial(_speed, run, got, cases.settings))


def collect(into: Numbers, device: str, runs: list[str], cases: Cases) -> Numbers:
    into.update(worker(device, runs, cases))
    return {"runs": len(into)}


def compare(run: str, got: Numbers, exact: Numbers) -> Numbers:
    optimizer, precision = run.split(":")
    if not got or not exact:
        raise Skip("there is nothing to compare")
    ours, theirs = _losses(got[run]), _losses(exact[f"{optimizer}:fp32"])
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    numbers = within({"loss": worst}, TOLERANCES[precision])
    return numbers | {"first": ours[0], "last": ours[-1], "last_on_cpu": theirs[-1]}


def _losses(run: Numbers) -> list[float]:
    if "error" in run:
        raise Failed(run["error"], {})
    return run["losses"]


def _speed(run: str, got: Numbers, settings: Settings) -> Numbers:
    if not got:
        raise Skip("the run did not start")
    _losses(got[run])
    rate, flops = got[run]["tokens_per_second"], got[run]["flops_per_token"]
    numbers = {"tokens_per_second": rate, "peak_gib": got[run]["peak_gib"]}
    return numbers | ({"mfu_of_ceiling": rate * flops / settings.ceiling} if settings.ceiling else {})


def worker(device: str, runs: list[str], cases: Cases) -> Numbers:
    """Run this file as a process on `device`: its result by run."""
    environment = {**os.environ, "DS_ACCELERATOR": device}
    if device == "cpu":
        # DeepSpeed compiles Muon's update, which takes longer on a CPU than these steps do.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TORCH_COMPILE_DISABLE": "1"}
    left = max(20.0, cases.settings.deadline - time.monotonic())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "losses.json"
        command = [sys.executable, "-m", "benchmarks.gpu.engine", "--seed", str(cases.settings.seed)]
        command += ["--out", str(out), *runs]
        with cases.log.open("a") as log:
            log.write(f"\n[{cases.section}] {' '.join(command)}\n")
            log.flush()
            done = subprocess.run(command, env=environment, timeout=left, stdout=log, stderr=log)
        if not out.exists():
            raise Failed(f"exit code {done.returncode} before any result; see the log", {})
        return json.loads(out.read_text())


def run_all(runs: list[str], seed: int, out: Path) -> None:
    """What a worker does: every run, guarded, written as soon as it is known."""
    results: Numbers = {}
    with world() as here:
        for run in runs:
            try:
                results[run] = train(run, seed, here)
            except Exception as error:  # of any kind: the other runs go on
                traceback.print_exc()
                results[run] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            out.write_text(json.dumps(results))


def train(run: str, seed: int, here: World) -> Numbers:
    """Losses of `optimizer:precision` at the tiny size, or the speed of `optimizer:precision:size`."""
    optimizer, precision, size = [*run.split(":"), "tiny"][:3]
    recipe = recipe_of(optimizer, precision, size)
    torch.manual_seed(seed)
    engine = build_engine(recipe, Transformer(recipe.model), here, recipe.train.zero_stage)
    set_learning_rate(engine.optimizer, LEARNING_RATE)
    document = DOCUMENT if size == "tiny" else recipe.model.context // 2
    batches = synthetic.training_batches(recipe, document, seed).for_rank(0, 1, 0)
    losses, marks = [], []
    for _, batch in list(batches):
        losses.append(_step(engine, batch.to(here.device)))
        if here.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    per_step = sorted(b - a for a, b in itertools.pairwise(marks[4:]))
    tokens = recipe.train.global_batch * recipe.model.context
    numbers = {
        "losses": [float(loss) for loss in losses],
        "tokens_per_second": tokens / per_step[len(per_step) // 2],
        "flops_per_token": engine.module.flops_per_token(recipe.model.context),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if here.device.type == "cuda" else None,
    }
    engine.destroy()
    return numbers


def _step(engine: Any, batch: Any) -> torch.Tensor:
    losses = engine(*batch.arguments)
    loss = losses.nll.mean()
    engine.backward(loss)
    engine.step()
    return loss.detach()


def recipe_of(optimizer: str, precision: str, size: str) -> Recipe:
    model, batch = (TINY, BATCH) if size == "tiny" else SIZES[size]
    objective = ObjectiveConfig(alpha=0.5, prefix_fraction=0.5)
    recipe = synthetic.recipe(model, objective, batch, batch, STEPS, precision)
    return replace(recipe, optimizer=OptimizerConfig(name=optimizer, lr=LEARNING_RATE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="optimizer:precision[:size]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    run_all(arguments.runs, arguments.seed, arguments.out)
