"""Iso-FLOP scaling: known laws are recovered within their intervals, and minima beyond the sizes are reported."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs
from rich.console import Console

from dualm.analysis import figures
from dualm.analysis.analyze import analyze_sweep, write
from dualm.analysis.isoflop import IsoFlopFit, fit_isoflop, isoflop_fits, laws_table, minima_table
from dualm.analysis.power_laws import compute_gap
from dualm.analysis.report import charts, write_report
from dualm.analysis.tables import summary
from dualm.errors import UserError
from tests.analysis.synthetic import results

BUDGETS = (1e17, 4e17, 1.6e18, 6.4e18)


@dataclass(frozen=True)
class Chinchilla:
    """L = E + A / N^a + B / D^b at C = 6 N D (Hoffmann et al. 2022, eq. 2 and 4), and its optimum in closed form."""

    E: float
    A: float
    B: float
    a: float = 0.34
    b: float = 0.28

    @property
    def size_power(self) -> float:
        return self.b / (self.a + self.b)

    def size(self, flops: float) -> float:
        return (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b)) * (flops / 6) ** self.size_power

    def loss(self, flops: float, size: float) -> float:
        return self.E + self.A / size**self.a + self.B / (flops / 6 / size) ** self.b

    def lowest(self, flops: float) -> float:
        return self.loss(flops, self.size(flops))

    def compute(self, loss: float) -> float:
        """The FLOPs whose best loss is `loss`."""
        tried = np.geomspace(1e12, 1e26, 8001)
        return float(np.exp(np.interp(-loss, [-self.lowest(flops) for flops in tried], np.log(tried))))


LAWS = {"ar": Chinchilla(1.7, 400, 410), "md": Chinchilla(1.7, 560, 570)}


def runs(
    law: Chinchilla, noise: float, seed: int = 0, budgets=BUDGETS, sizes: int = 5, off: float = 0.2
) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    """`sizes` at each budget, a factor of 1.7 apart; `off` is the distance of their middle from the best, in such steps."""
    draw = np.random.default_rng(seed)
    grid = [(flops, law.size(flops) * 1.7 ** (n - (sizes - 1) / 2 + off)) for flops in budgets for n in range(sizes)]
    points = pd.DataFrame(grid, columns=["flops", "N"])
    loss = [law.loss(*pair) + noise * draw.standard_normal() for pair in grid]
    return points.assign(run=[f"{n}" for n in range(len(grid))], D=points["flops"] / 6 / points["N"], loss=loss)


def as_table(points: dict[str, pd.DataFrame], repetitions: int = 1) -> pd.DataFrame:
    """The results table of a sweep with these last losses; the other reading has a high loss."""
    tables = []
    for reading, alpha, own, other in (
        ("ar", 1.0, "valid/ar_nll", "valid/md_nelbo"),
        ("md", 0.0, "valid/md_nelbo", "valid/ar_nll"),
    ):
        if reading not in points:
            continue
        rows = points[reading]
        tables.append(
            pd.DataFrame(
                {
                    "run": reading + rows["run"],
                    "step": 100,
                    "tokens": rows["D"],
                    "R": repetitions,
                    "alpha": alpha,
                    "seed": 0,
                }
                | {"budget_tokens": rows["D"], "unique_tokens": rows["D"] / repetitions, "epochs": float(repetitions)}
                | {"parameters": rows["N"], "flops": rows["flops"], "ar_exposures": alpha, "md_exposures": 1 - alpha}
                | {"finished": True, own: rows["loss"], other: rows["loss"] + 3}
            )
        )
    return pd.concat(tables, ignore_index=True)


def test_known_laws_are_recovered() -> None:
    law = LAWS["ar"]
    fit = fit_isoflop(runs(law, 1e-5), "ar")
    assert [profile.where for profile in fit.profiles] == ["inside"] * 4
    for profile in fit.profiles:
        assert profile.best["N"] == pytest.approx(law.size(profile.flops), rel=0.03)  # a parabola is not exact
        assert profile.best["D"] == pytest.approx(profile.flops / 6 / profile.best["N"], rel=0.01)
        assert profile.best["loss"] == pytest.approx(law.lowest(profile.flops), abs=0.002)
    assert fit.laws["N"].exponent == pytest.approx(law.size_power, abs=0.003)
    assert fit.laws["D"].exponent == pytest.approx(1 - law.size_power, abs=0.003)
    assert fit.laws["loss"].form == "E + k C^p"
    assert fit.laws["loss"].floor == pytest.approx(law.E, abs=0.05)
    assert fit.laws["loss"].exponent == pytest.approx(-law.a * law.b / (law.a + law.b), abs=0.01)


@pytest.mark.parametrize("reading", ["ar", "md"])
def test_intervals_have_their_nominal_coverage(reading: str) -> None:
    law = LAWS[reading]
    truth = {"N": law.size_power, "D": 1 - law.size_power, "loss": -law.a * law.b / (law.a + law.b)}
    covered: dict[str, list[bool]] = {name: [] for name in truth}
    for seed in range(40):
        fit = fit_isoflop(runs(law, 0.004, seed), reading)
        for name, exponent in truth.items():
            covered[name].append(fit.laws[name].exponent_low <= exponent <= fit.laws[name].exponent_high)
    assert all(sum(each) >= 31 for each in covered.values())  # of 40 at 90 %: fewer has probability 0.02
    one = fit_isoflop(runs(law, 0.004), reading).laws["N"]
    assert one.exponent_high - one.exponent_low < 0.1  # and they are narrow


def test_the_compute_gap_is_recovered() -> None:
    covered = []
    for seed in range(20):
        points = {reading: runs(law, 0.003, seed + 100 * (reading == "md")) for reading, law in LAWS.items()}
        _, gap, left_out = isoflop_fits(as_table(points))
        assert not left_out
        assert gap
        assert gap.loss
        assert gap.factor
        assert gap.low
        assert gap.high
        truth = LAWS["md"].compute(gap.loss) / LAWS["ar"].compute(gap.loss)
        assert 2 < truth < 20
        assert gap.factor == pytest.approx(truth, rel=0.15)
        covered.append(gap.low <= truth <= gap.high)
    assert sum(covered) >= 14  # of 20 at 90 %


def test_without_a_common_loss_there_is_only_a_bound() -> None:
    far = Chinchilla(3.0, 400, 410)
    fits = {"ar": fit_isoflop(runs(LAWS["ar"], 0.001), "ar"), "md": fit_isoflop(runs(far, 0.001), "md")}

    def gap_of(first: IsoFlopFit, second: IsoFlopFit) -> str:
        pair = {"ar": first, "md": second}
        gap = compute_gap({k: v.laws["loss"] for k, v in pair.items()}, {k: v.best_losses for k, v in pair.items()})
        assert gap.factor is None
        return gap.statement

    assert gap_of(fits["ar"], fits["md"]).endswith("so MD needs more than 64 times the compute of AR")
    assert gap_of(fits["md"], fits["ar"]).endswith("so MD needs less than 0.0156 times the compute of AR")


def test_a_minimum_beyond_the_sizes_is_reported_and_not_used() -> None:
    points = {
        "ar": pd.concat(
            [runs(LAWS["ar"], 0.001, off=4, budgets=BUDGETS[:1]), runs(LAWS["ar"], 0.001, budgets=BUDGETS[1:])]
        )
    }
    fit = fit_isoflop(points["ar"].assign(run=[f"{n}" for n in range(20)]), "ar")
    assert [profile.where for profile in fit.profiles] == ["at most", "inside", "inside", "inside"]
    assert fit.profiles[0].best["N"] == pytest.approx(fit.profiles[0].points["N"].min())
    assert fit.laws["N"].budgets == 3
    assert fit.laws["loss"].form == "k C^p"  # three minima do not determine E
    assert minima_table([fit])["where"].tolist() == ["at most", "inside", "inside", "inside"]
    beyond = as_table({"ar": runs(LAWS["ar"], 0.001, off=-4)})
    fits, gap, left_out = isoflop_fits(beyond)
    assert [profile.where for profile in fits[0].profiles] == ["at least"] * 4
    assert not fits[0].laws
    assert gap is None
    assert (
        "power laws of AR (alpha = 1): got 0 of 4 budgets with the lowest loss inside the sizes tried" in left_out[-1]
    )


def test_only_sizes_near_the_best_shape_the_parabola() -> None:
    near = runs(LAWS["ar"], 0.0005)
    far = near.groupby("flops").tail(1).assign(loss=9.0, run=["far1", "far2", "far3", "far4"])
    far["N"] *= 10  # a size that has learned nothing
    assert laws_table([fit_isoflop(pd.concat([near, far]), "ar")]).equals(laws_table([fit_isoflop(near, "ar")]))


def test_three_sizes_give_minima_without_intervals(tmp_path: Path) -> None:
    table = as_table({reading: runs(law, 0.001, sizes=3) for reading, law in LAWS.items()})
    sweep = analyze_sweep(table)
    analysis = sweep.groups[""]
    for fit in analysis.isoflop:
        assert all(profile.is_inside and not profile.has_intervals for profile in fit.profiles)
        assert np.isnan(fit.laws["N"].exponent_low)
    assert analysis.gap
    assert re.fullmatch(r"for [\d.]+ nats/token MD needs [\d.]+ times the compute of AR", analysis.gap.statement)
    shown = io.StringIO()
    Console(file=shown, width=200).print(summary(sweep))
    shown.write(write_report(sweep, tmp_path).read_text().replace(get_plotlyjs(), ""))
    write(sweep, tmp_path)
    assert not re.search(r"\bnan\b", shown.getvalue() + (tmp_path / "analysis.json").read_text(), re.IGNORECASE)


def test_too_few_sizes_are_left_out_with_one_line() -> None:
    few = as_table({reading: runs(law, 0.001, sizes=2) for reading, law in LAWS.items()})
    fits, gap, left_out = isoflop_fits(few)
    assert (fits, gap) == ([], None)
    assert left_out == [
        f"iso-FLOP of {name}: got 3 sizes or more at 0 budgets of 8 finished runs, expected at least 2 budgets"
        for name in ("AR (alpha = 1)", "MD (alpha = 0)")
    ]
    with pytest.raises(UserError, match="at 1 budgets of 5 finished runs"):
        fit_isoflop(runs(LAWS["ar"], 0.001, budgets=BUDGETS[:1]), "ar")
    _, _, older = isoflop_fits(few.drop(columns="flops"))
    assert older[0] == "iso-FLOP of AR (alpha = 1): got a table without the column 'flops', expected one with it"


def test_a_sweep_over_repetition_has_no_iso_flop_fit() -> None:
    assert isoflop_fits(results()) == ([], None, [])


def test_a_sweep_at_one_R_is_analysed(tmp_path: Path) -> None:
    table = as_table({reading: runs(law, 0.002) for reading, law in LAWS.items()})
    sweep = analyze_sweep(table)
    analysis = sweep.groups[""]
    assert analysis.left_out == ["surfaces, scaling of repeated data, findings: no mixture, and all runs at R = 1"]
    assert not analysis.findings
    write(sweep, tmp_path)
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert content["compute_gap"]["factor"] == pytest.approx(analysis.gap.factor if analysis.gap else None)
    assert len(pd.read_csv(tmp_path / "isoflop_minima.csv")) == 8
    assert len(pd.read_csv(tmp_path / "isoflop_laws.csv")) == 6
    assert summary(sweep)
    drawn = charts(sweep)
    assert [chart.name for chart in drawn[:2]] == ["isoflop", "isoflop-laws"]
    assert analysis.gap is not None
    assert analysis.gap.statement in drawn[1].caption
    page = write_report(sweep, tmp_path).read_text()
    assert "How size, tokens and loss grow with compute" in page
    assert 'id="findings"' not in page
    assert all(len(figures.draw(chart).axes) >= 2 for chart in drawn[:2])
