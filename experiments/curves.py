"""The curves of one run and its last validation, for docs/results.

    python -m experiments.curves runs/novels-3m docs/results/novels-3m.svg

Writes the figure (training and validation losses by trained tokens, in nats per token) and prints the last validation
as a Markdown table. Needs matplotlib (requirements-analysis.txt).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "dualm"  # the same run gives the same file
import matplotlib.pyplot as plt  # noqa: E402

from dualm.evaluation.readings import table as table_lines  # noqa: E402
from dualm.runs import is_validation, read_metrics  # noqa: E402

PANELS = [  # title, training metric, validation metric, colour
    ("autoregressive (causal)", "train/ar_loss", "valid/ar_nll", "tab:blue"),
    ("masked diffusion (NELBO)", "train/md_loss", "valid/md_nelbo", "tab:orange"),
    ("prefix (first half read both ways)", "train/prefix_loss", "valid/prefix_nll", "tab:green"),
]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    baseline = [row["valid/unigram_nll"] for row in rows if "valid/unigram_nll" in row][-1]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 3.2), sharey=True, layout="constrained")
    for axis, (title, train, valid, colour) in zip(axes, PANELS, strict=True):
        trained = [(row["tokens"] / 1e6, row[train]) for row in rows if train in row]
        axis.plot(*zip(*trained, strict=True), color=colour, alpha=0.35, linewidth=1, label="training")
        read = [(row["tokens"] / 1e6, row[valid], 2 * row[f"{valid}_se"]) for row in rows if valid in row]
        tokens, loss, error = zip(*read, strict=True)
        axis.errorbar(tokens, loss, error, color=colour, marker="o", markersize=3, label="validation, ± 2 s.e.")
        axis.axhline(baseline, color="grey", linestyle=":", label="unigram baseline")
        axis.set(title=title, xlabel="million tokens")
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("nats per token")
    figure.savefig(path, metadata={"Date": None})


def table(last: dict[str, Any]) -> str:
    lines = ["| reading | nats/token | s.e. | bits/byte |", "|---|--:|--:|--:|"]
    for metric, name, bits in table_lines():
        lines.append(f"| {name} | {last[metric]:.3f} | {last[metric + '_se']:.3f} | {last[bits]:.3f} |")
    return "\n".join(lines)


def main() -> None:
    run, out = map(Path, sys.argv[1:])
    rows = read_metrics(run)
    draw(rows, out)
    print(table([row for row in rows if is_validation(row)][-1]))


if __name__ == "__main__":
    main()
