"""What a run reports while it runs: a tally on the device, then metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dualm.model.transformer import Losses
from dualm.objectives import train_metrics
from dualm.training.distributed import World


class Tally:
    """Sums of the losses of micro-batches by objective, kept on the device until they are read.

    Rows with a non-finite loss are left out of the sums: the step they belong to is skipped and reported.
    """

    def __init__(self, device: torch.device):
        self._names = train_metrics()
        self._sums = torch.zeros(len(self._names) + 1, 2, dtype=torch.float64, device=device)

    def add(self, name: str, losses: Losses, trained: torch.Tensor) -> None:
        """Count a micro-batch for the metric `name`. `trained` `[batch]` is what the optimizer sees of each row: weighted, with the z-loss."""
        self._add(self._names.index(name), losses.nll)
        self._add(len(self._names), trained)

    def _add(self, index: int, values: torch.Tensor) -> None:
        finite = torch.isfinite(values.detach())
        self._sums[index, 0] += torch.where(finite, values.detach().double(), 0.0).mean()
        self._sums[index, 1] += finite.double().mean()

    def read(self) -> dict[str, float]:
        """Mean loss over all ranks since the last reading, per objective (nats/token); empties the tally."""
        torch.distributed.all_reduce(self._sums)
        sums = self._sums.tolist()
        self._sums.zero_()
        names = [*self._names, "train/loss"]
        return {name: total / count for name, (total, count) in zip(names, sums, strict=True) if count}


class Reporter:
    """Writes rows of metrics where people look for them; on ranks other than 0 it does nothing."""

    def __init__(self, run: Path, world: World, steps: int, start: int):
        self._active = world.is_first
        if not self._active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._file = open_for_append(run / "metrics.jsonl")
        self._samples = open_for_append(run / "samples.jsonl")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        self._steps, self._quiet_until = steps, 0.0
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(None),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, completed=start, status="starting")
        self._bar.start()

    def write(self, row: dict[str, Any]) -> None:
        if not self._active:
            return
        _append(self._file, row)
        for name, value in row.items():
            if "/" in name and isinstance(value, int | float):
                self._board.add_scalar(name, value, row["step"])
        if "perf/tokens_per_second" in row:
            self._show(row)

    def sample(self, step: int, mode: str, text: str) -> None:
        if self._active:
            _append(self._samples, {"step": step, "mode": mode, "text": text})
            self._board.add_text(f"sample/{mode}", text, step)

    def say(self, text: str) -> None:
        if self._active:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._active:
            self._bar.stop()
            for sink in (self._file, self._samples, self._board):
                sink.close()

    def _show(self, row: dict[str, Any]) -> None:
        losses = {name: row[name] for name in train_metrics() if name in row}
        status = " ".join(f"{name[6:].removesuffix('_loss')} {loss:.3f}" for name, loss in losses.items())
        status = f"{row['tokens'] / 1e6:.2f}M tokens, {row['perf/tokens_per_second']:,.0f} tok/s, {status}"
        self._bar.update(self._task, completed=row["step"], status=status)
        last = row["step"] == self._steps
        if not self._console.is_terminal and (last or time.monotonic() > self._quiet_until):
            self._quiet_until = time.monotonic() + 10  # a log file gets a line every ten seconds
            print(f"step {row['step']}/{self._steps}  {status}", file=sys.stderr, flush=True)


def open_for_append(path: Path) -> IO[str]:
    """Open a file of lines; a last line without its end, left by a killed writer, is cut off."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])
    return path.open("a")


def _append(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()
