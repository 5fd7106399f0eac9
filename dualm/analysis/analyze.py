"""All analyses of one results table, and the files with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dualm import files
from dualm.analysis.findings import Finding, findings
from dualm.analysis.isoflop import IsoFlopFit, isoflop_fits, laws_table, minima_table
from dualm.analysis.optimum import best_alpha, probability_best
from dualm.analysis.overfitting import overfitting
from dualm.analysis.power_laws import ComputeGap
from dualm.analysis.scaling import ScalingFit, scaling_fits
from dualm.analysis.surface import Surface, fit_surface
from dualm.analysis.table import PURE, check, surface_points, targets
from dualm.errors import UserError


@dataclass(frozen=True)
class Analysis:
    overfitting: pd.DataFrame  # a row per run and reading
    surfaces: Mapping[str, Surface]  # by key of a reading, or task/mode
    best: Mapping[str, pd.DataFrame]  # `best_alpha` of each surface
    probabilities: Mapping[str, pd.DataFrame]  # `probability_best` of each surface
    scaling: Sequence[ScalingFit]
    isoflop: Sequence[IsoFlopFit]  # empty unless the runs have several sizes at equal compute
    gap: ComputeGap | None
    findings: Sequence[Finding]
    left_out: Sequence[str]  # one line for each analysis or run that is left out

    @property
    def of_objectives(self) -> list[Surface]:
        """The surfaces of the AR and the MD reading, which every run has. They decide which run to train next."""
        return [self.surfaces[reading] for reading in PURE if reading in self.surfaces]


def analyze(table: pd.DataFrame) -> Analysis:
    """Every analysis that the finished runs of `table` allow. Raises UserError if no run has finished."""
    check(table)
    finished = table[table["finished"].astype(bool)]
    if finished.empty:
        raise UserError(
            f"results table: none of its {table['run'].nunique()} runs is finished yet, expected at least one"
        )
    unfinished = sorted(set(table["run"]) - set(finished["run"]))
    left_out = [f"{len(unfinished)} runs not finished: {', '.join(map(str, unfinished))}"] if unfinished else []
    compares = finished["R"].nunique() > 1 or finished["alpha"].between(0, 1, inclusive="neither").any()
    if not compares:
        reason = f"no mixture, and all runs at R = {finished['R'].iloc[0]}"
        left_out.append(f"surfaces, scaling of repeated data, findings: {reason}")
    surfaces, too_few = fit_surfaces(finished) if compares else ({}, [])
    repetitions = {name: np.unique(surface.points["R"]).tolist() for name, surface in surfaces.items()}
    overfits = overfitting(finished)
    scaling, unfitted = scaling_fits(finished) if compares else ([], [])
    isoflop, gap, without_laws = isoflop_fits(finished)
    return Analysis(
        overfitting=overfits,
        surfaces=surfaces,
        best={name: best_alpha(surface, repetitions[name]) for name, surface in surfaces.items()},
        probabilities={name: probability_best(surface, repetitions[name]) for name, surface in surfaces.items()},
        scaling=scaling,
        isoflop=isoflop,
        gap=gap,
        findings=findings(finished, overfits, surfaces) if compares else [],
        left_out=[*left_out, *too_few, *unfitted, *without_laws],
    )


def fit_surfaces(finished: pd.DataFrame) -> tuple[dict[str, Surface], list[str]]:
    """The surface of every reading and task that has enough runs, and one line for each of the others."""
    surfaces: dict[str, Surface] = {}
    left_out: list[str] = []
    for target in targets(finished):
        try:
            surfaces[target.name] = fit_surface(surface_points(finished, target), target.name, target.higher_is_better)
        except UserError as error:
            left_out.append(str(error))
    return surfaces, left_out


def write(analysis: Analysis, out: Path) -> None:
    """Write `analysis.json` with every fitted number, and a CSV file for each table, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "overfitting": analysis.overfitting,
        "best_alpha": by_surface(analysis.best),
        "probability_best": by_surface({name: long(table) for name, table in analysis.probabilities.items()}),
        "scaling": scaling_table(analysis.scaling),
    }
    if analysis.isoflop:
        tables |= {"isoflop_minima": minima_table(analysis.isoflop), "isoflop_laws": laws_table(analysis.isoflop)}
    for name, table in tables.items():
        files.write_text(out / f"{name}.csv", table.to_csv(index=False))
    content = {
        **{name: table.to_dict("records") for name, table in tables.items()},
        "surfaces": {name: surface_numbers(surface) for name, surface in analysis.surfaces.items()},
        "findings": [asdict(finding) for finding in analysis.findings],
        "left_out": list(analysis.left_out),
    }
    if analysis.gap:
        gap = asdict(analysis.gap)
        gap["told"] = gap.pop("statement")
        content["compute_gap"] = gap
    files.write_json(out / "analysis.json", _finite(content))


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
    check = surface.leave_one_out()
    signal = surface.kernel.k1
    return {
        "points": len(surface.points),
        "length_scale_log2_R": signal.k2.length_scale[0],
        "length_scale_alpha": signal.k2.length_scale[1],
        "signal_sd": np.sqrt(signal.k1.constant_value) * surface.warp.spread,
        "noise_sd": surface.noise * surface.warp.spread,
        "log_floor": surface.warp.floor,  # if not None, the standard deviations are those of log(cost - floor)
        "leave_one_out": {"r2": check.r2, "typical_error": check.typical_error, "inside": check.inside},
    }


def _finite(value: Any) -> Any:
    """The same nest with numpy numbers as Python numbers and infinities as None, because JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isinf(value) else value
