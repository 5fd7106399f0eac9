"""Does shifting cost masked diffusion anything? The figure of docs/shift.md and the numbers beside it.

    python -m experiments.shift runs/shift-cpu docs/results/shift

Writes shift.svg (who predicts what, and the validation NELBO of both kinds of model) and results.csv, and prints final
NELBOs with the paired difference and its 95 % interval (Student's t, seeds being the units). Needs pandas and
matplotlib (requirements-analysis.txt).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "dualm"  # the same runs give the same file
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy import stats  # noqa: E402

from dualm.sweep.results import load_results  # noqa: E402

NELBO, SHIFTED = "valid/md_nelbo", "objective.shifted"
TOKENS = ("<s>", "the", "[M]", "sang", "[M]")
TRUTH = ("<s>", "the", "sea", "sang", "softly")
LOOK = {True: ("shifted", "tab:orange", "-"), False: ("unshifted", "tab:blue", "--")}


def schematic(axis: Any, shifted: bool) -> None:
    """Inputs below, outputs above, an arrow from each supervised output to the input it fills."""
    colour = LOOK[shifted][1]
    for place, token in enumerate(TOKENS):
        masked = token == "[M]"
        axis.text(place, 0, token, ha="center", va="center", bbox={"boxstyle": "round", "fc": "w", "ec": "0.6"})
        axis.plot([place, place], [0.25, 1.0], color="0.8", zorder=0)
        axis.text(place, 1.2, f"$h_{place}$", ha="center", va="center", color="0.35")
        if masked:
            output = place - 1 if shifted else place
            arrow = {"arrowstyle": "->", "color": colour, "shrinkA": 6, "shrinkB": 8}
            axis.annotate("", xy=(place, 2.1), xytext=(output, 1.35), arrowprops=arrow)
            axis.text(place, 2.3, TRUTH[place], ha="center", va="center", color=colour, weight="bold")
    axis.set(xlim=(-0.6, len(TOKENS) - 0.4), ylim=(-0.5, 2.7))
    axis.set_title(
        {True: "shifted: $h_{i-1}$ predicts $x_i$", False: "unshifted: $h_i$ predicts $x_i$"}[shifted], size=9
    )
    axis.axis("off")


def curves(axis: Any, table: pd.DataFrame) -> None:
    for (kind, seed), run in table.groupby([SHIFTED, "seed"]):
        name, colour, line = LOOK[bool(kind)]
        run = run.sort_values("step")
        label = name if seed == table["seed"].min() else None
        axis.plot(run["step"], run[NELBO], color=colour, linestyle=line, label=label, linewidth=1)
    axis.set(xlabel="step", ylabel="validation NELBO, nats per token", xscale="log")
    axis.set_xticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)


def summary(table: pd.DataFrame) -> str:
    final = (
        table.sort_values("step").groupby([SHIFTED, "seed"]).tail(1).pivot(index="seed", columns=SHIFTED, values=NELBO)
    )
    difference = (final[True] - final[False]).to_numpy()
    half = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
    lines = ["| seed | shifted | unshifted | difference |", "|--:|--:|--:|--:|"]
    for seed, row in final.iterrows():
        lines.append(f"| {seed} | {row[True]:.4f} | {row[False]:.4f} | {row[True] - row[False]:+.4f} |")
    mean = np.mean(difference)
    return "\n".join([*lines, "", f"difference {mean:+.4f}, 95 % interval {mean - half:+.4f} to {mean + half:+.4f}"])


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    table = load_results(folder)
    table = table[table["finished"].astype(bool)].assign(**{SHIFTED: table[SHIFTED].map(str) == "True"})
    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.1), layout="constrained", width_ratios=[1, 1, 1.2])
    schematic(axes[0], shifted=False)
    schematic(axes[1], shifted=True)
    curves(axes[2], table)
    figure.savefig(out / "shift.svg", metadata={"Date": None})
    table[["run", "seed", "step", SHIFTED, NELBO, f"{NELBO}_se"]].to_csv(out / "results.csv", index=False)
    print(summary(table))


if __name__ == "__main__":
    main()
