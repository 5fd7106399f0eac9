"""The results of a sweep: one tidy table with a row per run and validation step, made from the run directories alone.

    run, step, tokens, <every axis by its recipe key>, R, alpha, seed, budget_tokens, unique_tokens, epochs, parameters, flops,
    ar_exposures, md_exposures, finished, train/..., valid/..., task/<task>/<mode>

R is the number of repetitions (how often each unique token is seen), `alpha` the AR ratio (the fraction of training
sequences with the AR objective), as the mean over the run. An exposure of a token is one training pass over it with one
objective; the columns count those so far. `parameters` excludes the input embedding. `flops` counts the training FLOPs so
far, `size.flops_per_token` for every sequence that the network reads. Losses are in nats per token, with their standard errors (`..._se`) and in bits per
byte (`..._bpb`). Task scores are in the last row of a finished run; `task/average/<mode>` is the average of the normalised scores of
the sweep's section `tasks`, from 0 (chance) to 100.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dualm import config, files, runs
from dualm.errors import UserError
from dualm.model import size
from dualm.objectives import train_metrics
from dualm.plan.budget import Budget
from dualm.plan.mixture import Mixture, alpha_schedule
from dualm.sweep import scores
from dualm.sweep.folder import DEFINITION, is_finished, read_definition
from dualm.sweep.labels import as_text

if TYPE_CHECKING:
    import pandas as pd

TRAINED = (*train_metrics(), "train/loss")
FIRST = ("run", "step", "tokens")
DERIVED = (
    "R",
    "alpha",
    "seed",
    "budget_tokens",
    "unique_tokens",
    "epochs",
    "parameters",
    "flops",
    "ar_exposures",
    "md_exposures",
)
LATER = ("flops",)  # columns that tables of older versions do not have


def collect(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table of the sweep in `folder`, and one line for everything that is left out of it.

    It can be called while runs are in progress. Raises UserError if `folder` holds no sweep.
    """
    import pandas as pd

    definition = read_definition(folder)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name in definition["points"]:
        found, left_out = run_rows(folder / "runs" / name, definition["axes"], definition["tasks"])
        rows += [{"run": name, **row} for row in found]
        notes += [f"{name}: {what} left out, cut off in the middle" for what in left_out]
    absent = len(definition["points"]) - len({row["run"] for row in rows})
    if absent:
        notes.append(f"{absent} of {len(definition['points'])} runs left out, not validated yet")
    table = pd.DataFrame(rows, columns=columns(rows, definition["axes"]))
    for axis in definition["axes"]:
        if not pd.api.types.is_numeric_dtype(table[axis]):
            table[axis] = table[axis].map(as_text)  # Parquet needs one type per column
    score_columns = [name for name in table.columns if name.startswith("task/")]
    return table.astype(dict.fromkeys([*TRAINED, *score_columns], float)), notes


def columns(rows: list[dict[str, Any]], axes: list[str]) -> list[str]:
    """The columns of the table, in an order that does not depend on the order of the runs."""
    first = [*FIRST, *axes, *DERIVED, "finished", *TRAINED]
    return [*first, *sorted({name for row in rows for name in row} - set(first))]


def run_rows(run: Path, axes: list[str], tasks: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one run directory, without its name, and what in it is cut off in the middle."""
    if not (run / "recipe.yaml").exists():
        return [], []
    recipe = config.load(run / "recipe.yaml")
    flat, budget, metrics = config.flatten(recipe), Budget.of(recipe), runs.read_metrics(run)
    alphas = alpha_schedule(recipe.objective.alpha, budget.repetitions, budget.steps)
    about = {
        **{axis: flat[axis] for axis in axes},
        "R": budget.repetitions,
        "alpha": float(alphas.mean()),
        "seed": recipe.run.seed,
        "budget_tokens": budget.tokens,
        "unique_tokens": budget.unique_tokens,
        "parameters": size.parameter_count(recipe.model, embedding=False),
        "finished": is_finished(run, metrics, budget.steps),
    }
    flops_per_token = size.flops_per_token(recipe.model, recipe.model.context)
    mixture = Mixture.of(alphas, recipe.train.global_batch // recipe.train.micro_batch, recipe.objective)
    rows = [about | row for row in _validations(metrics, budget, alphas, mixture, flops_per_token)]
    torn = _torn_lines(run / "metrics.jsonl")
    left_out = [f"{torn} line{'s' * (torn > 1)} of metrics.jsonl"] if torn else []
    if rows and about["finished"]:
        task_scores, unread = scores.columns(run, budget.steps, tasks)
        rows[-1] |= task_scores
        left_out += [f"evaluation/{file}" for file in unread]
    return rows, left_out


def _validations(
    metrics: list[dict[str, Any]], budget: Budget, alphas: np.ndarray, mixture: Mixture, flops_per_token: int
) -> Iterator[dict[str, Any]]:
    """The progress, last training losses and validation losses at each validation; `alphas` is alpha of each step."""
    trained: dict[str, Any] = dict.fromkeys(TRAINED)
    for row in metrics:  # sorted by step; training comes before validation at one step
        trained |= {name: row[name] for name in TRAINED if name in row}
        if not runs.is_validation(row):
            continue
        epochs = row["tokens"] / budget.unique_tokens
        alpha_so_far = float(alphas[: row["step"]].mean())
        read = mixture.sequences_read(0, row["step"] * mixture.per_step)
        yield {
            **{name: row[name] for name in ("step", "tokens")},
            "flops": read * row["tokens"] * flops_per_token,
            "epochs": epochs,
            "ar_exposures": alpha_so_far * epochs,
            "md_exposures": (1 - alpha_so_far) * epochs,
            **trained,
            **{name: value for name, value in row.items() if name.startswith("valid/")},
        }


def _torn_lines(path: Path) -> int:
    """The number of lines that are not JSON: a killed process may leave the last line unfinished."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return sum(not _is_json(line) for line in lines)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def write(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Rebuild `results.parquet` and `results.csv` of the sweep in `folder`; returns what `collect` does."""
    table, notes = collect(folder)
    files.write_text(folder / "results.csv", table.to_csv(index=False))
    with files.replacing(folder / "results.parquet") as partial:
        table.to_parquet(partial, index=False)
    return table, notes


def load_results(path: str | Path) -> pd.DataFrame:
    """The results table at `path`: the folder of a sweep, whose table is rebuilt, or a .parquet or .csv file.

    A folder without a sweep may hold such a file as results.parquet or results.csv.

    Raises:
        UserError: there is no table, the file is not a results table, or no run in it is finished.
    """
    path = Path(path)
    table = collect(path)[0] if (path / DEFINITION).is_file() else _read_table(path)
    missing = [name for name in (*FIRST, *DERIVED, "finished") if name not in {*table.columns, *LATER}]
    if missing:
        raise UserError(f"{path}: not a results table: no column {missing[0]!r}")
    if not any(table["finished"]):
        raise UserError(f"{path}: no run is finished yet, expected at least one")
    return table


def _read_table(path: Path) -> pd.DataFrame:
    """The table in the file `path`, or in the results file of the folder `path`."""
    import pandas as pd

    candidates = [path / "results.parquet", path / "results.csv"] if path.is_dir() else [path]
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        raise UserError(f"{path}: holds no results, expected a sweep's folder, or results.parquet or results.csv")
    try:
        return pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except Exception as error:  # the readers raise many types of exception
        raise UserError(f"{file}: not a results table: {' '.join(str(error).split())}") from None
