"""What the sections of the check share: settings, guarded cases, errors against a reference, timing."""

from __future__ import annotations

import json
import statistics
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Numbers = dict[str, Any]


class Skip(Exception):
    """The case can't run here; the message says why."""


class Failed(Exception):
    """A number is out of its tolerance."""

    def __init__(self, reason: str, numbers: Numbers):
        super().__init__(reason)
        self.numbers = numbers


@dataclass(frozen=True)
class Settings:
    device: torch.device
    quick: bool
    seed: int  # every case draws its inputs from this and its own name
    deadline: float  # time.monotonic() after which no new case begins
    peak: float | None  # FLOP/s of the datasheet
    ceiling: float | None  # FLOP/s of the matrix product measured by the section "ceilings"

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed ^ zlib.crc32(name.encode()))


@dataclass
class Cases:
    """The cases of one section: each is guarded, printed at once and written to `part`."""

    section: str
    settings: Settings
    part: Path
    log: Path
    rows: list[Numbers] = field(default_factory=list)

    def run(self, name: str, action: Callable[[], Numbers]) -> Numbers | None:
        """Call `action` and record what it returns; None where it did not pass."""
        if time.monotonic() > self.settings.deadline:
            self._add(name, "SKIP", "out of time", {}, 0.0)
            return None
        before, status, reason, numbers = time.monotonic(), "PASS", "", {}
        try:
            numbers = action()
            if self.settings.on_gpu:
                torch.cuda.synchronize()
        except Skip as skip:
            status, reason = "SKIP", str(skip)
        except Failed as failed:
            status, reason, numbers = "FAIL", str(failed), failed.numbers
        except Exception as error:  # of any kind: the other cases go on
            status, reason = "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            with self.log.open("a") as log:
                log.write(f"\n[{self.section}] {name}\n{traceback.format_exc()}")
        self._add(name, status, reason, numbers, time.monotonic() - before)
        return numbers if status == "PASS" else None

    def skip(self, name: str, reason: str) -> None:
        self._add(name, "SKIP", reason, {}, 0.0)

    def _add(self, name: str, status: str, reason: str, numbers: Numbers, seconds: float) -> None:
        row = {"section": self.section, "name": name, "status": status, "reason": reason, "seconds": round(seconds, 2)}
        self.rows.append({**row, "numbers": numbers})
        self.part.write_text(json.dumps(self.rows))
        shown = "  ".join(f"{key} {_short(value)}" for key, value in numbers.items())
        print(f"{status}  {self.section}  {name}  {reason}  {shown}", flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def relative(out: Tensor, reference: Tensor) -> float:
    """||out - reference|| / ||reference||; infinite where `out` is not finite."""
    out, reference = out.detach().cpu().double(), reference.detach().cpu().double()
    if not bool(out.isfinite().all()):
        return float("inf")
    return float((out - reference).norm() / reference.norm().clamp(min=1e-30))


def within(errors: dict[str, float], tolerances: dict[str, float]) -> Numbers:
    """The errors, as a case's numbers. Raises Failed, naming those above their tolerance."""
    bad = [
        f"{name} {error:.2e} > {tolerances[name]:.0e}"
        for name, error in errors.items()
        if not error <= tolerances[name]
    ]
    if bad:
        raise Failed("; ".join(bad), dict(errors))
    return dict(errors)


def median_ms(action: Callable[[], Any], device: torch.device, repeats: int, warmup: int = 3) -> float:
    """Median milliseconds of one call after `warmup` calls, by device events on a GPU."""
    for _ in range(warmup):
        action()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            before = time.perf_counter()
            action()
            times.append(1e3 * (time.perf_counter() - before))
        return statistics.median(times)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    torch.cuda.synchronize()
    for start, stop in marks:
        start.record()
        action()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in marks)
