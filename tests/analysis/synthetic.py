"""The results table of a synthetic sweep of fifty runs, which overfit where the objective repeats too often."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

POINTS = {  # R: alphas
    1: (0, 1 / 4, 3 / 4, 15 / 16, 63 / 64, 1),
    2: (0, 1 / 4, 3 / 4, 15 / 16, 63 / 64, 1),
    4: (0, 1 / 4, 3 / 4, 15 / 16, 63 / 64, 1),
    8: (0, 1 / 4, 3 / 4, 15 / 16, 63 / 64, 1),
    16: (0, 1 / 16, 1 / 4, 1 / 2, 3 / 4, 63 / 64, 1),
    32: (0, 1 / 16, 1 / 4, 1 / 2, 3 / 4, 255 / 256, 1),
    64: (0, 1 / 64, 1 / 8, 1 / 4, 1 / 2, 1),
    128: (0, 1 / 256, 1 / 16, 1 / 8, 1 / 2, 1),
}
BUDGET = 4_194_304


def results(validations: int = 16, seed: int = 0) -> pd.DataFrame:
    """Fifty runs of `validations` each, the last of which did not finish."""
    rng = np.random.default_rng(seed)
    runs = [
        point(f"R{r}-alpha{alpha:.4g}-seed0", r, alpha, validations, rng) for r, row in POINTS.items() for alpha in row
    ]
    runs[-1] = runs[-1].head(validations // 2).assign(finished=False)
    return pd.concat(runs, ignore_index=True)


def point(name: str, repetitions: int, alpha: float, validations: int, rng: np.random.Generator) -> pd.DataFrame:
    progress = np.linspace(0, 1, validations + 1)[1:]
    unique, epochs = BUDGET // repetitions, progress * repetitions
    ar, md = alpha * epochs, (1 - alpha) * epochs

    def loss(floor: float, slow: float, exposures: np.ndarray, others: np.ndarray, patience: float) -> np.ndarray:
        seen = unique * (exposures + 0.3 * others) / 1e6 + 0.02
        worn = np.maximum(0, np.log2(np.maximum(exposures, 1e-9) / patience))
        return floor + slow * seen**-0.35 + 0.35 * worn**1.5 + 0.25 * np.log2(repetitions) / 7

    noise = rng.normal(0, 0.006, 3)[:, None] + rng.normal(0, 0.004, (3, validations))
    losses = {
        "valid/ar_nll": loss(2.6, 0.9, ar, md, 16) + noise[0],
        "valid/md_nelbo": loss(2.9, 1.2, md, ar, 200) + noise[1],
        "valid/prefix_nll": loss(2.5, 1.0, 0.8 * ar + 0.2 * md, md, 24) + noise[2],
    }
    tokens = (progress * BUDGET).astype(int)
    frame = pd.DataFrame(
        {
            "run": name,
            "step": tokens // 2048,
            "tokens": tokens,
            "R": repetitions,
            "alpha": float(alpha),
            "seed": 0,
            "budget_tokens": BUDGET,
            "unique_tokens": unique,
            "epochs": epochs,
            "parameters": 1_200_000,
            "ar_exposures": ar,
            "md_exposures": md,
            "finished": True,
        }
    )
    for column, values in losses.items():
        frame[column], frame[f"{column}_se"] = values, 0.012
        frame[column.replace("_nll", "_bpb").replace("_nelbo", "_bpb")] = values / np.log(2) / 4.1
    frame["valid/ar_nll_second_half"] = losses["valid/ar_nll"] - 0.03
    frame["train/ar_loss"], frame["train/md_loss"] = losses["valid/ar_nll"] - 0.1, losses["valid/md_nelbo"] - 0.1
    frame["train/loss"] = alpha * frame["train/ar_loss"] + (1 - alpha) * frame["train/md_loss"]
    return frame


def ends(
    truth: Callable[[float, float, dict[str, Any]], float],
    points: Iterable[tuple[int, float]],
    seeds: Sequence[int] = (0,),
    levels: Sequence[dict[str, Any]] = ({},),
    noise: float = 0.0,
    of_seed: float = 0.0,
    random: int = 0,
) -> pd.DataFrame:
    """The last validation of every combination of point (R, alpha), seed and level of further axes.

    Its AR NLL is `truth(R, alpha, level)` with the noise of the run, plus noise that all runs of one seed share (standard deviations).
    """
    rng = np.random.default_rng(random)
    shared = {seed: of_seed * rng.standard_normal() for seed in seeds}
    rows = []
    for R, alpha in points:
        for level in levels:
            for seed in seeds:
                about = {
                    "R": R,
                    "alpha": float(alpha),
                    "seed": seed,
                    "step": 8,
                    "tokens": BUDGET,
                    "parameters": 1_200_000,
                }
                about |= {"budget_tokens": BUDGET, "unique_tokens": BUDGET // R, "finished": True}
                about |= {"epochs": float(R), "ar_exposures": alpha * R, "md_exposures": (1 - alpha) * R}
                named = "-".join(
                    [f"R{R}", f"a{alpha:g}", *(f"{key}={value}" for key, value in level.items()), f"s{seed}"]
                )
                loss = truth(R, alpha, level) + noise * rng.standard_normal() + shared[seed]
                rows.append({"run": named} | about | level | {"valid/ar_nll": loss})
    return pd.DataFrame(rows)


def with_seeds(seeds: int = 3, validations: int = 6) -> pd.DataFrame:
    """The fifty runs of `results` with several seeds, all finished."""
    tables = []
    for seed in range(seeds):
        table = results(validations, seed).query("run != 'R128-alpha1-seed0'")
        tables.append(table.assign(seed=seed, run=table["run"].str.removesuffix("-seed0") + f"-s{seed}"))
    return pd.concat(tables, ignore_index=True)
