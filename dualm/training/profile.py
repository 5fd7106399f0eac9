"""`dualm train --profile`: where the time of a step goes, by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

WARMUP, STEPS = 5, 3  # the first steps allocate, compile and fill caches


@contextmanager
def profiled(folder: Path | None, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yields what is called after every step; once WARMUP + STEPS have passed, `folder` holds `trace.json` and `operators.txt`.

    The trace opens in chrome://tracing or ui.perfetto.dev; the table holds each operator's own time, the largest first. With no folder nothing
    is recorded.
    """
    if folder is None:
        yield lambda: None
        return
    on_gpu = torch.cuda.is_available()

    def write(profiler: Any) -> None:
        folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json"))
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60)
        (folder / "operators.txt").write_text(table + "\n")
        say(f"profile of {STEPS} steps: {folder}/trace.json and {folder}/operators.txt; training goes on")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    schedule = torch.profiler.schedule(wait=0, warmup=WARMUP, active=STEPS, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write) as profiler:
        yield profiler.step
