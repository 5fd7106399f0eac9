"""All analyses of one results table, and the files with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dualm import files
from dualm.analysis.axes import by_level, by_size
from dualm.analysis.comparison import contests, level_differences
from dualm.analysis.findings import Finding, findings
from dualm.analysis.isoflop import IsoFlopFit, isoflop_fits, laws_table, minima_table
from dualm.analysis.optimum import best_alpha, probability_best
from dualm.analysis.overfitting import overfitting
from dualm.analysis.power_laws import ComputeGap
from dualm.analysis.scaling import ScalingFit, scaling_fits
from dualm.analysis.surface import MINIMUM, Surface, fit_surface
from dualm.analysis.table import LOSSES, Target, both_readings, check, families, surface_points, targets
from dualm.errors import UserError


@dataclass(frozen=True)
class Analysis:
    """The analysis of runs that differ in R, alpha, the seed and at most their size."""

    table: pd.DataFrame
    targets: Sequence[Target]  # what the surfaces and findings are about
    overfitting: pd.DataFrame  # a row per run and reading
    surfaces: Mapping[str, Surface]  # by name of a target
    best: Mapping[str, pd.DataFrame]  # `best_alpha` of each surface
    probabilities: Mapping[str, pd.DataFrame]  # `probability_best` of each surface
    scaling: Sequence[ScalingFit]
    isoflop: Sequence[IsoFlopFit]  # empty unless the runs have several sizes at equal compute
    gap: ComputeGap | None
    findings: Sequence[Finding]
    left_out: Sequence[str]  # one line for each analysis or run that is left out

    @property
    def of_objectives(self) -> list[Surface]:
        """The surfaces of the readings of AR and MD, of the first family that has any. They decide which run to train next."""
        pairs = [both_readings(family) for family in families(self.targets).values()]
        found = [[self.surfaces[each.name] for each in pair if each.name in self.surfaces] for pair in pairs]
        return next((surfaces for surfaces in found if surfaces), [])


@dataclass(frozen=True)
class SweepAnalysis:
    """The analyses of a results table: of each group of runs (see `axes`), and the comparisons between them."""

    table: pd.DataFrame
    groups: Mapping[str, Analysis]  # by label; one with the label "" if the sweep has no axes but R and alpha
    differences: pd.DataFrame  # `level_differences`
    contests: pd.DataFrame  # `contests`
    left_out: Sequence[str]  # whole groups


def analyze_sweep(table: pd.DataFrame, wanted: Sequence[str] = ()) -> SweepAnalysis:
    """Every analysis that the finished runs of `table` allow, on the columns `wanted` (see `table.targets`) or on all.

    Raises:
        UserError: no run has finished, or `wanted` names no column.
    """
    check(table)
    chosen = targets(finished_runs(table), wanted)
    groups: dict[str, Analysis] = {}
    left_out = []
    for label, rows in by_level(table):
        if not rows["finished"].any():
            left_out.append(f"{label}: no run is finished yet")
            continue
        groups[label] = analyze(rows, chosen)
        if len(sizes := by_size(rows)) > 1:
            for size, own in sizes:
                if own["finished"].any() and _has_surface(own):
                    groups[", ".join(filter(None, [label, size]))] = analyze(own, chosen)
    return SweepAnalysis(table, groups, level_differences(table, chosen), contests(table, chosen), left_out)


def _has_surface(table: pd.DataFrame) -> bool:
    places = table[table["finished"].astype(bool)].drop_duplicates(["R", "alpha"])
    found = {"points": len(places), "R": places["R"].nunique(), "alpha": places["alpha"].nunique()}
    return all(found[what] >= minimum for what, minimum in MINIMUM.items())


def finished_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the finished runs. Raises UserError if there are none."""
    finished = table[table["finished"].astype(bool)]
    if finished.empty:
        raise UserError(
            f"results table: none of its {table['run'].nunique()} runs is finished yet, expected at least one"
        )
    return finished


def analyze(table: pd.DataFrame, chosen: Sequence[Target] | None = None) -> Analysis:
    """The analysis of one group of runs on the columns `chosen` or on all. Raises UserError if no run has finished."""
    check(table)
    finished = finished_runs(table)
    chosen = targets(finished) if chosen is None else chosen
    absent = [target.name for target in chosen if not finished[target.column].notna().any()]
    chosen = [target for target in chosen if target.name not in absent]
    unfinished = sorted(set(table["run"]) - set(finished["run"]))
    left_out = [f"{len(unfinished)} runs not finished: {', '.join(map(str, unfinished))}"] if unfinished else []
    left_out += [f"{', '.join(absent)}: not measured on these runs"] if absent else []
    compares = finished["R"].nunique() > 1 or finished["alpha"].between(0, 1, inclusive="neither").any()
    one_size = len(by_size(finished)) == 1
    if not compares:
        reason = f"no mixture, and all runs at R = {finished['R'].iloc[0]}"
        left_out.append(f"surfaces, scaling of repeated data, findings: {reason}")
    elif not one_size:
        left_out.append(
            "surfaces, findings: these runs have several sizes, each of which has its own if its runs suffice"
        )
    surfaces, too_few = fit_surfaces(finished, chosen) if compares and one_size else ({}, [])
    repetitions = {name: np.unique(surface.points["R"]).tolist() for name, surface in surfaces.items()}
    overfits = overfitting(
        finished, tuple(dict.fromkeys([*LOSSES, *(t.name for t in chosen if not t.higher_is_better)]))
    )
    scaling, unfitted = scaling_fits(finished) if compares else ([], [])
    isoflop, gap, without_laws = isoflop_fits(finished)
    return Analysis(
        table=table,
        targets=chosen,
        overfitting=overfits,
        surfaces=surfaces,
        best={name: best_alpha(surface, repetitions[name]) for name, surface in surfaces.items()},
        probabilities={name: probability_best(surface, repetitions[name]) for name, surface in surfaces.items()},
        scaling=scaling,
        isoflop=isoflop,
        gap=gap,
        findings=findings(finished, overfits, surfaces, chosen) if compares and one_size else [],
        left_out=[*left_out, *too_few, *unfitted, *without_laws],
    )


def fit_surfaces(finished: pd.DataFrame, chosen: Sequence[Target]) -> tuple[dict[str, Surface], list[str]]:
    """The surface of every target that has enough runs, and one line for each of the others."""
    surfaces: dict[str, Surface] = {}
    left_out: list[str] = []
    for target in chosen:
        try:
            surfaces[target.name] = fit_surface(surface_points(finished, target), target.name, target.higher_is_better)
        except UserError as error:
            left_out.append(str(error))
    return surfaces, left_out


def write(sweep: SweepAnalysis, out: Path) -> None:
    """Write `analysis.json` with every fitted number, and a CSV file for each table, into the folder `out`.

    If the runs form several groups, a column `group` holds their labels.
    """
    out.mkdir(parents=True, exist_ok=True)
    groups = sweep.groups
    tables = {
        "overfitting": _grouped({label: group.overfitting for label, group in groups.items()}),
        "points": _grouped({label: points_table(group) for label, group in groups.items()}),
        "best_alpha": _grouped({label: by_surface(group.best) for label, group in groups.items()}),
        "probability_best": _grouped({label: _probabilities(group) for label, group in groups.items()}),
        "scaling": _grouped({label: scaling_table(group.scaling) for label, group in groups.items()}),
        "differences": sweep.differences,
        "contests": sweep.contests,
    }
    fitted = {label: group.isoflop for label, group in groups.items() if group.isoflop}
    if fitted:
        tables["isoflop_minima"] = _grouped({label: minima_table(fits) for label, fits in fitted.items()})
        tables["isoflop_laws"] = _grouped({label: laws_table(fits) for label, fits in fitted.items()})
    for name, table in tables.items():
        files.write_text(out / f"{name}.csv", table.to_csv(index=False))
    content: dict[str, Any] = {
        **{name: table.to_dict("records") for name, table in tables.items()},
        "surfaces": {
            ", ".join(filter(None, [name, label])): surface_numbers(surface)
            for label, group in groups.items()
            for name, surface in group.surfaces.items()
        },
        "findings": [{"group": label} | asdict(each) for label, group in groups.items() for each in group.findings],
        "left_out": [*sweep.left_out, *(line for label in groups for line in left_out_lines(label, groups[label]))],
    }
    gaps = {label: group.gap for label, group in groups.items() if group.gap}
    for label, gap in gaps.items():
        told = asdict(gap)
        told["told"] = told.pop("statement")
        content["compute_gap" + (f", {label}" if label else "")] = told
    files.write_json(out / "analysis.json", _finite(content))


def left_out_lines(label: str, group: Analysis) -> list[str]:
    """What is left out of a group, each line with its label."""
    return [f"{label}: {line}" if label else line for line in group.left_out]


def _grouped(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of all groups as one; with a column `group` if there are several."""
    if list(tables) == [""]:
        return tables[""]
    return pd.concat([table.assign(group=label) for label, table in tables.items()], ignore_index=True)


def points_table(group: Analysis) -> pd.DataFrame:
    """A row per target and point (R, alpha): the mean over seeds of the last values, with half the width of its interval.

    Columns target, run (without the seed, if there are several), R, alpha, value, seeds, sd, half.
    """
    finished = finished_runs(group.table)
    tables = [surface_points(finished, target).assign(target=target.name) for target in group.targets]
    columns = ["target", "run", "R", "alpha", "value", "seeds", "sd", "half"]
    found = [table.rename(columns={"value_sd": "sd", "value_half": "half"})[columns] for table in tables if len(table)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _probabilities(group: Analysis) -> pd.DataFrame:
    return by_surface({name: long(table) for name, table in group.probabilities.items()})


def by_surface(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of all surfaces as one, with the name of the surface in the column `reading`."""
    named = [table.assign(reading=name) for name, table in tables.items()]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame({"reading": []})


def long(probabilities: pd.DataFrame) -> pd.DataFrame:
    """Columns R, alpha, probability."""
    return probabilities.reset_index().melt("R", var_name="alpha", value_name="probability")


def scaling_table(fits: Sequence[ScalingFit]) -> pd.DataFrame:
    """A row per fit. The column `told` is R_D* in words."""
    names = [field.name for field in fields(ScalingFit) if field.name != "points"]
    rows = [{name: getattr(fit, name) for name in names} | {"told": fit.half_life_label} for fit in fits]
    return pd.DataFrame(rows, columns=[*names, "told"])


def surface_numbers(surface: Surface) -> dict[str, Any]:
    check, process = surface.leave_one_out, surface.process
    return {
        "points": len(surface.points),
        "length_scale_log2_R": process.scales[0],
        "length_scale_alpha": process.scales[1],
        "signal_sd": np.sqrt(process.variance) * surface.warp.spread,
        "noise_sd": surface.noise * surface.warp.spread,
        "log_floor": surface.warp.floor,  # if not None, the standard deviations are those of log(cost - floor)
        "leave_one_out": {"r2": check.r2, "typical_error": check.typical_error, "inside": check.inside},
    }


def _finite(value: Any) -> Any:
    """The same nest with numpy numbers as Python numbers and NaN and infinities as None, because JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
