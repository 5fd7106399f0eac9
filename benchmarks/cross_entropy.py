"""The head's loss: ours, chunked and over supervised rows, against cross-entropy over all positions' logits.

    python -m benchmarks.cross_entropy
    python -m benchmarks.cross_entropy --rows 16384 --hidden 1024 --vocab 51200 --dtype bf16 --device cuda

A is `torch.nn.functional.cross_entropy` on the logits of every position (unsupervised ones ignored); B is
`dualm.model.loss.linear_cross_entropy` on the supervised rows. Both forward and backward, in turn (A B A B ...), on the
same random data. Printed: medians of time and of the extra memory at its peak, and the ratios A / B.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dualm.model.loss import linear_cross_entropy

Step = Callable[[], Tensor]


def naive(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Mean over the supervised positions; the others are labelled -100."""
    return F.cross_entropy(F.linear(hidden, weight).float(), labels)


def chunked(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden.index_select(0, rows), weight, targets)[0].mean()


def measure(step: Step, leaves: list[Tensor]) -> tuple[float, float, Tensor]:
    """(seconds, MiB above what was there before, the loss) of one forward and backward pass."""
    device = leaves[0].device
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)  # not counted: the same on both sides
    memory = start_memory(device)
    before = time.perf_counter()
    loss = step()
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - before, memory() / 2**20, loss.detach()


def start_memory(device: torch.device) -> Callable[[], float]:
    """Begin to watch; the returned function gives the bytes that the peak since then lay above the start."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - start
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak of the resident set
    resident = _status("VmRSS")
    return lambda: _status("VmHWM") - resident


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, name
    return 1024 * int(found[1])


def compare(arguments: argparse.Namespace, supervised: float) -> str:
    """One line: both sides at a share of supervised positions."""
    device, dtype = torch.device(arguments.device), {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    hidden = torch.randn(arguments.rows, arguments.hidden, device=device).to(dtype).requires_grad_()
    weight = (0.02 * torch.randn(arguments.vocab, arguments.hidden, device=device)).to(dtype).requires_grad_()
    rows = torch.randperm(arguments.rows, device=device)[: round(supervised * arguments.rows)].sort().values
    targets = torch.randint(arguments.vocab, rows.shape, device=device)
    labels = torch.full((arguments.rows,), -100, device=device).index_copy(0, rows, targets)
    sides: list[Step] = [lambda: naive(hidden, weight, labels), lambda: chunked(hidden, weight, rows, targets)]
    runs: list[list[tuple[float, float, Tensor]]] = [[], []]
    for turn in range(arguments.repeats + 1):
        for side, step in enumerate(sides):
            result = measure(step, [hidden, weight])
            if turn:  # the first turn warms up
                runs[side].append(result)
    torch.testing.assert_close(runs[0][0][2], runs[1][0][2], rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)
    (a_s, a_mib), (b_s, b_mib) = (
        (statistics.median(r[0] for r in side), statistics.median(r[1] for r in side)) for side in runs
    )
    return (
        f"supervised {supervised:4.0%}   time {a_s:.3f} s / {b_s:.3f} s = {a_s / b_s:.2f}   "
        f"peak memory {a_mib:.0f} MiB / {b_mib:.0f} MiB = {a_mib / max(b_mib, 1):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="positions: batch times length")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--supervised", type=float, nargs="*", default=[1.0, 0.5, 0.15])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{arguments.rows} rows, hidden {arguments.hidden}, vocab {arguments.vocab}, {arguments.dtype}, "
        f"{arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print("F.cross_entropy on all positions / linear_cross_entropy on supervised rows")
    for supervised in arguments.supervised:
        print(compare(arguments, supervised), flush=True)


if __name__ == "__main__":
    main()
