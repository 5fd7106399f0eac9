"""How much sooner does bell-shaped time get there? Steps to the final NELBO of uniform time, as ratios.

    python -m experiments.bell runs/bell-cpu runs/bell-ends-cpu [runs/bell-shape-cpu] [--out docs/results/bell]

For every run: the first step at which its validation NELBO, interpolated in log steps, is that of the uniform, elbo, iid
run of the same seed at the end, as a share of all steps. Where several seeds were run, the ratio is a geometric mean with a
95 % interval (Student's t on log ratios, seeds being the units; three seeds make it wide). Writes results.csv, table.md
and curves.svg. Needs pandas and matplotlib (requirements-analysis.txt).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "dualm"  # the same runs give the same file
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy import stats  # noqa: E402

from dualm.sweep.results import load_results  # noqa: E402

NELBO = "valid/md_nelbo"
SHORT = {"time": "time", "draws": "draws", "weighting": "weighting", "time_mean": "mean", "time_std": "std"}
REFERENCE = ["uniform", "iid", "elbo"]


def read(folders: list[Path]) -> pd.DataFrame:
    """Every validation of every finished run: its settings, seed, step, NELBO and losses by mask rate."""
    tables = []
    for folder in folders:
        table = load_results(folder)
        recipe = {"time": "bell", "draws": "stratified", "weighting": "flat", "time_mean": 0.5, "time_std": 0.2}
        for key, default in recipe.items():
            table[key] = table.get(f"objective.{key}", default)
        table.loc[~table["time"].isin(["bell"]), ["time_mean", "time_std"]] = math.nan
        tables.append(table[table["finished"].astype(bool)])
    return pd.concat(tables, ignore_index=True).drop_duplicates([*SHORT, "seed", "step"])  # a run of two sweeps


def steps_to(curve: pd.DataFrame, target: float) -> float:
    """The first step at which `curve` (columns step, NELBO) comes down to `target`; infinite if it never does."""
    steps, losses = curve["step"].to_numpy(float), curve[NELBO].to_numpy(float)
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return math.inf
    first = below[0]
    if first == 0:
        return float(steps[0])
    share = (losses[first - 1] - target) / (losses[first - 1] - losses[first])
    return float(np.exp(np.log(steps[first - 1]) + share * np.log(steps[first] / steps[first - 1])))


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """A row per setting: seeds, final NELBO, and steps to the reference's final NELBO as a share of its steps."""
    settings = list(SHORT)
    is_reference = (table[["time", "draws", "weighting"]] == REFERENCE).all(axis=1)
    targets = table[is_reference].sort_values("step").groupby("seed").tail(1).set_index("seed")
    rows = []
    for setting, runs in table.groupby(settings, dropna=False, sort=False):
        curves = [(seed, curve.sort_values("step")) for seed, curve in runs.groupby("seed") if seed in targets.index]
        final = [curve[NELBO].iloc[-1] for _, curve in curves]
        logs = [math.log(steps_to(curve, targets[NELBO][seed]) / targets["step"][seed]) for seed, curve in curves]
        low, high = interval(logs)
        rows.append(
            {
                **dict(zip(settings, setting, strict=True)),
                "seeds": len(curves),
                "nelbo": np.mean(final),
                "ratio": math.exp(np.mean(logs)),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows).sort_values("ratio")


def interval(logs: list[float]) -> tuple[float, float]:
    """95 % interval of the geometric mean; nan for a single seed."""
    if len(logs) < 2 or not np.isfinite(logs).all():
        return math.nan, math.nan
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
    return math.exp(np.mean(logs) - half), math.exp(np.mean(logs) + half)


def markdown(found: pd.DataFrame) -> str:
    lines = ["| time | weighting | draws | seeds | final NELBO | steps to the reference's NELBO | 95 % |"]
    lines.append("|---|---|---|--:|--:|--:|---|")
    for row in found.itertuples(index=False):
        bell = row.time == "bell"
        name = f"bell {row.time_mean:g}, {row.time_std:g}" if bell else row.time
        reached = "not reached" if math.isinf(row.ratio) else f"{row.ratio:.2f}"
        band = "" if math.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f}"
        lines.append(f"| {name} | {row.weighting} | {row.draws} | {row.seeds} | {row.nelbo:.3f} | {reached} | {band} |")
    return "\n".join(lines)


def draw(table: pd.DataFrame, path: Path) -> None:
    """NELBO over steps for both ends, and their final loss by mask rate."""
    ends = {"uniform, elbo, iid": REFERENCE, "bell, flat, stratified": ["bell", "stratified", "flat"]}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rates = sorted(name for name in table.columns if name.startswith("valid/md_loss_t"))
    centres = [float(name.rpartition("_t")[2]) for name in rates]
    for (label, setting), colour in zip(ends.items(), ("tab:blue", "tab:orange"), strict=True):
        chosen = (table[["time", "draws", "weighting"]] == setting).all(axis=1)
        chosen &= table["time_mean"].isna() | ((table["time_mean"] == 0.5) & (table["time_std"] == 0.2))
        for number, (_, curve) in enumerate(table[chosen].groupby("seed")):
            curve = curve.sort_values("step")
            name = label if number == 0 else None
            left.plot(curve["step"], curve[NELBO], color=colour, label=name, linewidth=1)
            right.plot(centres, curve[rates].iloc[-1], color=colour, label=name, linewidth=1, marker=".")
    left.set(xlabel="step", ylabel="validation NELBO, nats per token", xscale="log")
    left.set_xticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
    left.minorticks_off()
    right.set(xlabel="mask rate t", ylabel="loss of a masked token at the end, nats")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table = read(arguments.folders)
    found = ratios(table)
    print(markdown(found))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        rates = [name for name in table.columns if name.startswith("valid/md_")]
        table[["run", "seed", "step", *SHORT, *rates]].to_csv(arguments.out / "results.csv", index=False)
        (arguments.out / "table.md").write_text(markdown(found) + "\n")
        draw(table, arguments.out / "curves.svg")


if __name__ == "__main__":
    main()
