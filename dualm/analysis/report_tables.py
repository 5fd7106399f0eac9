"""The tables of the report: all runs, the differences between levels of an axis, and each objective alone against the mixtures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from dualm.analysis.analyze import SweepAnalysis
from dualm.analysis.axes import further_axes, level_text
from dualm.analysis.charts import alpha_colour, numbers, present, records
from dualm.analysis.overfitting import merged
from dualm.analysis.page import Cell, Table
from dualm.analysis.replicates import cells, over_seeds, seeds_label, with_half
from dualm.analysis.table import Target, targets
from dualm.sweep.labels import alpha_label, count_label

NONE = Cell("–")


def tables(sweep: SweepAnalysis) -> list[Table]:
    """Those that have rows, in their order on the page."""
    overfits = pd.concat([group.overfitting for group in sweep.groups.values()]).drop_duplicates(["run", "reading"])
    made = [
        _table(
            "contests",
            "Each objective alone against the best mixture",
            "Both choose freely among the levels of all axes, the mixture its α too. With several seeds, each is measured on the "
            "choice of the others, so that choosing among many does not help. The difference is mixture minus alone.",
            _contests(sweep.contests),
        ),
        _table(
            "levels",
            "The levels of each axis",
            "Paired differences of last values, level minus base; the runs of a pair share the seed, the windows and all else.",
            _differences(sweep.differences),
        ),
        _table(
            "runs",
            "All runs",
            "Bold: the lowest loss of a column. Rise: from the lowest loss of a run to its last loss.",
            runs_table(sweep.table, overfits),
        ),
    ]
    return [table for table in made if table.rows]


def _table(name: str, title: str, note: str, columns: Iterable[tuple[str, Sequence[Cell]]]) -> Table:
    headings, cells_of = zip(*columns, strict=True)
    return Table(title, note, headings, list(zip(*cells_of, strict=True)), name)


def runs_table(table: pd.DataFrame, overfitting: pd.DataFrame) -> Iterator[tuple[str, list[Cell]]]:
    """Heading and cells of every column. A row is a run, or the mean over its seeds with its interval, sorted by R and alpha."""
    cell = cells(table)
    ends = table.sort_values("step").groupby("run").tail(1).sort_values(["R", "alpha", "seed"])
    scores = [target for target in targets(table) if target.higher_is_better]
    last = over_seeds(ends, cell, [target.column for target in scores])
    by_seed = ends.groupby(ends["run"].map(cell), sort=False)
    done, reached = by_seed["finished"].sum(), by_seed["step"].min()
    runs = records(
        last[["run", "R", "alpha", "seeds", "unique_tokens", "ar_exposures", "md_exposures", "parameters", "tokens"]]
    )
    yield "run", [Cell(run.run, run.run) for run in runs]
    yield "R", [Cell(f"{run.R}", run.R) for run in runs]
    yield "α", [Cell(alpha_label(run.alpha), run.alpha, alpha_colour(run.alpha)) for run in runs]
    for axis in further_axes(table):
        yield axis, [Cell(level_text(level), _sorted_by(level)) for level in last[axis]]
    yield "seeds", [Cell(seeds_label(run.seeds), run.seeds) for run in runs]
    if last["parameters"].nunique() > 1:
        yield "parameters", [Cell(count_label(run.parameters), run.parameters) for run in runs]
        yield "tokens", [Cell(count_label(run.tokens), run.tokens) for run in runs]
    yield "unique tokens", [Cell(count_label(run.unique_tokens), run.unique_tokens) for run in runs]
    yield "AR exposures", [Cell(f"{run.ar_exposures:.3g}", run.ar_exposures) for run in runs]
    yield "MD exposures", [Cell(f"{run.md_exposures:.3g}", run.md_exposures) for run in runs]
    yield "state", [_state(int(done[run.run]), run.seeds, int(reached[run.run])) for run in runs]
    rises = merged(overfitting, table[table["finished"].astype(bool)])
    for reading in present(set(overfitting["reading"])):
        found = {row.run: row for row in records(rises[rises["reading"] == reading.key])}
        # a cell of which one seed alone is finished is named after that run
        own = [
            found.get(run.run) or next((found[each] for each in cell.index[cell == run.run] if each in found), None)
            for run in runs
        ]
        yield f"{reading.loss}, end", _losses(own, "loss_last")
        yield f"{reading.loss}, lowest", _losses(own, "loss_least")
        yield f"{reading.loss}, rise", [Cell(_rise(row), row.gap) if row else NONE for row in own]
    for target in scores:
        yield target.name, [_estimate(value, half) for value, half in _means(last, target)]


def _sorted_by(level: Any) -> float | str:
    return level if isinstance(level, str) else float(level)


def _means(merged_rows: pd.DataFrame, target: Target) -> Iterator[tuple[float, float]]:
    return zip(numbers(merged_rows[target.column]), numbers(merged_rows[f"{target.column}_half"]), strict=True)


def _state(done: int, seeds: int, step: int) -> Cell:
    if done == seeds:
        return Cell("finished", "finished")
    state = f"at step {step}" if seeds == 1 else f"{done} of {seeds} finished"
    return Cell(state, state)


def _rise(row: Any) -> str:
    """One seed: with the standard error of the difference. Several: with the interval over them."""
    return with_half(row.gap, row.gap_se if row.seeds == 1 else row.gap_half)


def _losses(rows: Sequence[Any], name: str) -> list[Cell]:
    lowest = min(getattr(row, name) for row in rows if row)
    return [_estimate(getattr(row, name), getattr(row, f"{name}_half"), lowest) if row else NONE for row in rows]


def _estimate(value: float, half: float, lowest: float | None = None) -> Cell:
    return NONE if math.isnan(value) else Cell(with_half(value, half), value, lowest=value == lowest)


# ---------------------------------------------------------------- comparisons


def _contests(rows: pd.DataFrame) -> Iterator[tuple[str, list[Cell]]]:
    found = records(rows)
    yield "column", [Cell(Target.named(row.target).title, row.target) for row in found]
    yield "value", [Cell(row.value, row.value) for row in found]
    yield "R", [Cell(f"{row.R}", row.R) for row in found]
    if rows["others"].any():
        yield "at", [Cell(row.others, row.others) for row in found]
    yield "best alone", [Cell(row.alone_at, row.alone_at) for row in found]
    yield "its value", [Cell(f"{row.alone:.3f}", row.alone) for row in found]
    yield "best mixture", [Cell(row.mixture_at, row.mixture_at) for row in found]
    yield "its value", [Cell(f"{row.mixture:.3f}", row.mixture) for row in found]
    yield from _difference(found)


def _differences(rows: pd.DataFrame) -> Iterator[tuple[str, list[Cell]]]:
    found = records(rows)
    yield "axis", [Cell(row.axis, row.axis) for row in found]
    yield "level", [Cell(row.level, row.level) for row in found]
    yield "base", [Cell(row.base, row.base) for row in found]
    yield "column", [Cell(Target.named(row.target).title, row.target) for row in found]
    yield "R", [Cell(f"{row.R}", row.R) for row in found]
    yield "α", [Cell(alpha_label(row.alpha), row.alpha, alpha_colour(row.alpha)) for row in found]
    if rows["others"].any():
        yield "at", [Cell(row.others, row.others) for row in found]
    yield from _difference(found)


def _difference(found: Sequence[Any]) -> Iterator[tuple[str, list[Cell]]]:
    yield (
        "difference",
        [Cell(with_half(row.difference, row.high - row.difference, "+.4f"), row.difference) for row in found],
    )
    yield "seeds", [Cell(seeds_label(row.seeds), row.seeds) for row in found]
    yield "better", [Cell(row.better or "cannot tell", row.better or "cannot tell") for row in found]
