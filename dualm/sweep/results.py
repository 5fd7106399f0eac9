"""The results of a sweep: one tidy table, a row for each run and validation step, made from run directories alone.

    run, step, tokens, <every axis by its recipe key>, R, alpha, seed, budget_tokens, unique_tokens, epochs, parameters, flops,
    ar_exposures, md_exposures, finished, train/..., valid/..., task/<task>/<mode>

Losses are nats per token, with their standard errors (`..._se`) and bits per byte (`..._bpb`). Task scores stand in the
last row of a finished run. `parameters` leaves out the input embedding; `flops` are those of training so far, as
`size.flops_per_token` counts them; `alpha` is the mean over the run; exposures are how often a unique token was trained in
each way so far.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualm import config, files, runs
from dualm.errors import UserError
from dualm.model import size
from dualm.objectives import train_metrics
from dualm.plan.budget import Budget
from dualm.plan.mixture import alpha_schedule
from dualm.sweep import scores
from dualm.sweep.folder import is_finished, read_definition

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
LATER = ("flops",)  # columns that the tables of older versions do not have


def collect(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table of the sweep in `folder`, and a line for everything that is left out of it.

    May be called while runs go on. Raises UserError if `folder` holds no sweep.
    """
    import pandas as pd

    definition = read_definition(folder)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name in definition["points"]:
        found, left_out = run_rows(folder / "runs" / name, definition["axes"])
        rows += [{"run": name, **row} for row in found]
        notes += [f"{name}: {what} left out, cut off in the middle" for what in left_out]
    absent = len(definition["points"]) - len({row["run"] for row in rows})
    if absent:
        notes.append(f"{absent} of {len(definition['points'])} runs left out, not validated yet")
    table = pd.DataFrame(rows, columns=columns(rows, definition["axes"]))
    for axis in definition["axes"]:
        if not pd.api.types.is_numeric_dtype(table[axis]):
            table[axis] = table[axis].map(as_text)  # names, lists: one type a column, as Parquet needs
    scored = [name for name in table.columns if name.startswith("task/")]
    return table.astype(dict.fromkeys([*TRAINED, *scored], float)), notes


def columns(rows: list[dict[str, Any]], axes: list[str]) -> list[str]:
    """The table's columns in their order, whatever order the runs came in."""
    first = [*FIRST, *axes, *DERIVED, "finished", *TRAINED]
    return [*first, *sorted({name for row in rows for name in row} - set(first))]


def run_rows(run: Path, axes: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one run directory, without its name, and what in it is torn."""
    if not (run / "recipe.yaml").exists():
        return [], []
    recipe = config.load(run / "recipe.yaml")
    flat, budget, metrics = config.flatten(recipe), Budget.of(recipe), runs.read_metrics(run)
    alphas = alpha_schedule(recipe.objective.alpha, budget.repetitions, budget.steps)
    per_token = size.flops_per_token(recipe.model, recipe.model.context)
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
    rows: list[dict[str, Any]] = []
    trained = dict.fromkeys(TRAINED)
    for row in metrics:  # by step, and at one step training before validation
        trained |= {name: row[name] for name in TRAINED if name in row}
        if runs.is_validation(row):
            epochs = row["tokens"] / budget.unique_tokens
            so_far = float(alphas[: row["step"]].mean())
            valid = {name: value for name, value in row.items() if name.startswith("valid/")}
            seen = {"epochs": epochs, "ar_exposures": so_far * epochs, "md_exposures": (1 - so_far) * epochs}
            spent = {"tokens": row["tokens"], "flops": float(row["tokens"]) * per_token}
            rows.append({"step": row["step"], **spent, **about, **seen, **trained, **valid})
    torn = _torn(run / "metrics.jsonl")
    left_out = [f"{torn} line{'s' * (torn > 1)} of metrics.jsonl"] if torn else []
    if rows and about["finished"]:
        task_scores, unread = scores.columns(run, budget.steps)
        rows[-1] |= task_scores
        left_out += [f"evaluation/{file}" for file in unread]
    return rows, left_out


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _torn(path: Path) -> int:
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
    """The table of a sweep: of its folder, built anew from the runs in it, or of a .parquet or .csv file of it.

    A folder without a sweep in it may hold such a file, results.parquet or results.csv.

    Raises:
        UserError: nothing there, not such a table, or no run in it is finished.
    """
    import pandas as pd

    path = Path(path)
    if path.is_dir() and (path / "sweep.yaml").exists():
        table = collect(path)[0]
    else:
        candidates = [path / "results.parquet", path / "results.csv"] if path.is_dir() else [path]
        file = next((file for file in candidates if file.is_file()), None)
        if file is None:
            raise UserError(f"{path}: holds no results, expected a sweep's folder, or results.parquet or results.csv")
        try:
            table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
        except Exception as error:  # the readers raise many kinds
            raise UserError(f"{file}: not a results table: {' '.join(str(error).split())}") from None
    missing = [name for name in (*FIRST, *DERIVED, "finished") if name not in {*table.columns, *LATER}]
    if missing:
        raise UserError(f"{path}: not a results table: no column {missing[0]!r}")
    if not any(table["finished"]):
        raise UserError(f"{path}: no run is finished yet, expected at least one")
    return table
