"""Training: from a recipe to a run directory.

    prepare data -> claim the run directory -> build model and engine -> resume -> steps -> last validation

Everything a step computes is a function of (recipe, step); the engine's state is the only thing carried on.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dualm import runs
from dualm.config import Recipe
from dualm.data.prepare import prepare
from dualm.data.shards import Shards
from dualm.errors import UserError
from dualm.interop import initialize
from dualm.model.precision import emulated
from dualm.model.transformer import Transformer
from dualm.objectives import OBJECTIVES
from dualm.objectives.example import Batch
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import Use, open_passes, uses
from dualm.randomness import stream
from dualm.training import checkpoints, run_directory
from dualm.training.allocator import keep_freed_memory
from dualm.training.checkpoints import State
from dualm.training.cost import cost
from dualm.training.distributed import World, any_rank, on_first_rank, world
from dualm.training.ema import WeightAverage
from dualm.training.engine import accumulation_steps, build_engine, logged_gradient_norm, used_stage
from dualm.training.learned_time import LearnedTime
from dualm.training.metrics import Reporter, Tally
from dualm.training.optimizers import set_learning_rate
from dualm.training.prefetch import Prefetcher
from dualm.training.profile import profiled
from dualm.training.schedules import learning_rate
from dualm.training.validator import Validator


def train(recipe: Recipe, resume: bool = True, profile: bool = False) -> Path:
    """Train `recipe` to its last step, or resume it, and return its run directory; `profile` writes one of early steps there.

    Raises:
        UserError: a mistake in the recipe, the data or the run directory.
    """
    with world() as here:
        if here.device.type == "cpu":
            keep_freed_memory()
        cost(recipe, here.size)  # refuses what `plan` refuses, before anything is written
        starting = on_first_rank(here, lambda: not runs.checkpoints(Path(recipe.run.dir)))
        if starting:
            on_first_rank(here, lambda: initialize.check_sizes(recipe.model))
        folder = on_first_rank(here, lambda: prepare(recipe.data, recipe.model.vocab))
        shards = open_shards(here, folder)
        batches = TrainingBatches.of(recipe, open_passes(recipe, shards))
        if starting:
            on_first_rank(here, lambda: initialize.check_start(recipe.model, shards.tokenizer))
        run, lock, checkpoint = on_first_rank(here, lambda: enter(recipe, resume))
        Run(recipe, here, run, shards, batches, profile).go(checkpoint)
        if here.is_first:
            os.close(lock)
    return run


def open_shards(here: World, folder: Path) -> Shards:
    """Open the shards everywhere, after rank 0 has checked them against their checksums."""

    def verify() -> None:
        Shards.open(folder, verify=True)

    on_first_rank(here, verify)
    return Shards.open(folder, verify=False)


def enter(recipe: Recipe, resume: bool) -> tuple[Path, int, Path | None]:
    """Claim the run directory: its path, the lock on it, and the checkpoint to start from, if any."""
    run = run_directory.claim(recipe)
    lock = run_directory.lock(run)
    newest = runs.newest_whole(run)
    if newest and not resume:
        raise UserError(f"run.dir: {run} has checkpoints, expected a new directory with --no-resume")
    if newest is None:  # what a run left that ended before its first checkpoint
        for name in ("metrics.jsonl", "samples.jsonl"):
            (run / name).unlink(missing_ok=True)
    return run, lock, newest


@dataclass
class Run:
    recipe: Recipe
    world: World
    dir: Path
    shards: Shards
    batches: TrainingBatches
    profile: bool

    def go(self, checkpoint: Path | None) -> None:
        torch.manual_seed(self.recipe.run.seed)
        self.model = Transformer(self.recipe.model)
        if self.recipe.model.init_from and checkpoint is None:
            self.model.load_state_dict(initialize.initial_weights(self.recipe.model))
        if self.recipe.train.compile:
            self.model.compile_blocks()
        elif self.world.device.type == "cpu":
            torch.compiler.set_stance("force_eager")  # DeepSpeed would compile Muon, which costs a CPU run minutes
        written = checkpoints.written_stage(checkpoint) if checkpoint else None
        stage = used_stage(self.recipe, self.world.size, written)
        engine = build_engine(self.recipe, self.model, self.world, stage)
        average = WeightAverage(engine, self.recipe.optimizer.ema)
        self.state = State(engine, average, LearnedTime(self.recipe.objective, self.world.device))
        start = checkpoints.load(checkpoint, self.state, self.world, self.recipe) if checkpoint else 0
        steps = self.batches.budget.steps
        if start < steps:
            self.reporter = Reporter(self.dir, self.world, steps, start)
            self.reporter.say(f"resuming from {checkpoint}" if checkpoint else f"training {steps} steps in {self.dir}")
            if stage != self.recipe.train.zero_stage:
                self.reporter.say(
                    f"train.zero_stage: {self.recipe.train.zero_stage} has nothing to share out in one process; stage {stage} runs, with the same numbers"
                )
            if reason := emulated(self.recipe.train.precision, self.world.device):
                self.reporter.say(f"train.precision: {reason}")
            self.describe_data()
            self.validator = Validator.of(self.recipe, self.world, self.shards, self.batches)
            folder = self.dir / "profile" if self.profile and self.world.is_first else None
            try:
                with profiled(folder, self.reporter.say) as after_step:
                    self.run_steps(start, steps, after_step)
            finally:
                self.reporter.close()

    def describe_data(self) -> None:
        """Say how much of the corpus is used, and write it down."""
        sources = self.batches.sources

        def record() -> list[Use]:
            used = uses(self.recipe, self.shards, sources)
            run_directory.record_data(self.dir, used)
            return used

        used = on_first_rank(self.world, record)
        remarks = [source.windows.remark for source in sources]
        for line in [*(f"unique data: {one}" for one in used), *filter(None, remarks)]:
            self.reporter.say(line)

    def run_steps(self, start: int, steps: int, after_step: Callable[[], None]) -> None:
        train = self.recipe.train
        stepper = Stepper(self, self.loader(start))
        stop = StopSignal()
        skipped = 0
        for step in range(start + 1, steps + 1):
            stepper.step(step)
            self.state.average.update()
            after_step()
            skipped = 0 if self.state.engine.was_step_applied() else skipped + 1
            if skipped:
                self.reporter.write({"step": step, "event": "skipped", "reason": "non-finite gradient"})
            if skipped >= train.max_skipped:
                raise UserError(
                    f"step {step}: the gradient was not finite {skipped} steps in a row; lower optimizer.lr ({self.recipe.optimizer.lr})?"
                )
            due = checkpoints.is_due(step, self.recipe, steps)
            logging = step % train.log_every == 0
            # Ranks agree where they synchronise anyway; a process of its own need not wait for that.
            stopping = stop.asked if self.world.size == 1 else logging and any_rank(self.world, stop.asked)
            if logging or due or stopping:
                stepper.report(step)
            if self.state.time.is_due(step):
                self.state.time.refresh()
                stepper.go_on_with(self.loader(step))
            with stepper.paused():
                every = self.recipe.validate.every
                if step == steps or (every and step % every == 0):
                    self.validate(step)
                if due or stopping:
                    self.save(step)
            if stopping:
                self.reporter.say(f"stopped by a signal after step {step}; the same command resumes")
                break
        stepper.loader.close()

    def loader(self, step: int) -> Prefetcher[tuple[str, Batch]]:
        """The micro-batches of this rank after `step` updates."""
        batches = self.batches.with_time(self.state.time.density) if self.state.time.every else self.batches
        source = batches.for_rank(self.world.rank, self.world.size, step)
        if self.world.device.type == "cuda":
            source = ((name, batch.pin_memory()) for name, batch in source)
        return Prefetcher(source, self.recipe.train.prefetch)

    def save(self, step: int) -> None:
        special = checkpoints.is_special(step, self.recipe, self.batches.budget.steps)
        checkpoints.save(self.dir, step, self.state, self.world, self.recipe, self.shards.tokenizer, special)

    def validate(self, step: int) -> None:
        tokens = step * self.batches.budget.batch * self.batches.budget.context
        with self.state.average.in_place():
            losses, samples = self.validator.losses(self.state.engine), self.validator.samples(self.model, step)
        self.reporter.write({"step": step, "tokens": tokens, **losses})
        for mode, text in samples.items():
            self.reporter.sample(step, mode, text)


class Stepper:
    """Takes the optimizer steps and measures them: losses, speed, and the share of time spent waiting for data."""

    def __init__(self, run: Run, loader: Prefetcher[tuple[str, Batch]]):
        self.run, self.loader = run, loader
        self.tally = Tally(run.world.device)
        self.accumulation = accumulation_steps(run.recipe, run.world.size)
        self.flops_per_token = run.model.flops_per_token(run.recipe.model.context)
        self._restart()

    def _restart(self) -> None:
        self.since, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def go_on_with(self, loader: Prefetcher[tuple[str, Batch]]) -> None:
        self.loader.close()
        self.loader = loader

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training's: validation and checkpoints."""
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before

    def step(self, step: int) -> None:
        """One optimizer step; `step` counts from 1."""
        recipe, engine = self.run.recipe, self.run.state.engine
        steps = self.run.batches.budget.steps
        set_learning_rate(engine.optimizer, learning_rate(step - 1, steps, recipe.optimizer.lr, recipe.schedule))
        for turn in range(self.accumulation):
            before = time.perf_counter()
            name, batch = next(self.loader)
            self.waited += time.perf_counter() - before
            if recipe.model.dropout:
                self._seed_dropout(step, self.run.world.rank + turn * self.run.world.size)
            losses = engine(*batch.to(self.run.world.device).arguments)
            objective = OBJECTIVES[name]
            trained = objective.weight(recipe.objective) * (losses.nll + recipe.objective.z_loss * losses.z)
            engine.backward(trained.mean())
            engine.step()
            self.tally.add(f"train/{objective.metric}", losses, trained)
            if objective.half == "md":
                self.run.state.time.add(batch, losses.nll)
        self.steps += 1

    def _seed_dropout(self, step: int, micro: int) -> None:
        """Seed dropout by the micro-batch's number in the global batch, whichever rank computes it."""
        torch.manual_seed(int(stream(self.run.recipe.run.seed, "dropout", step, micro).integers(2**63)))

    def report(self, step: int) -> None:
        """Write a row of metrics over the steps since the last one."""
        recipe, budget = self.run.recipe, self.run.batches.budget
        row: dict[str, Any] = {"step": step, "tokens": step * budget.batch * budget.context, **self.tally.read()}
        seconds = time.perf_counter() - self.since
        rate = self.steps * budget.batch * budget.context / seconds
        row["train/lr"] = learning_rate(step - 1, budget.steps, recipe.optimizer.lr, recipe.schedule)
        row["perf/tokens_per_second"] = rate
        mixture = self.run.batches.mixture
        read = mixture.sequences_read((step - self.steps) * mixture.per_step, step * mixture.per_step)
        row["perf/model_flops_per_second"] = rate * read * self.flops_per_token
        row["perf/data_wait"] = self.waited / seconds
        norm = logged_gradient_norm(self.run.state.engine)
        if norm is not None and math.isfinite(norm):
            row["train/gradient_norm"] = norm
        self.run.reporter.write(row)
        self._restart()


class StopSignal:
    """Remembers a SIGTERM or SIGINT, so that training ends at a step's end, with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one is obeyed at once
        self.asked = True
