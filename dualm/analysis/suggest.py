"""The runs to train next: an acquisition function for the best AR ratio alpha at each number of repetitions R.

The acquisition value of a point is the expected reduction of the entropy of the best alpha (entropy search: Villemonteix,
Vazquez and Walter 2009; Hennig and Schuler 2012). It is averaged over R and over the readings, because one run gives all
of them. Outcomes are fantasised: posterior samples of the surface are conditioned on an outcome by Matheron's rule, a
rank-one update that needs no refitting. The seeds of a point are one point of the surface; a measurement is one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dualm import files
from dualm.analysis.analyze import SweepAnalysis, finished_runs
from dualm.analysis.axes import further_axes, level_value
from dualm.analysis.surface import Surface, grid
from dualm.analysis.table import POOL
from dualm.errors import UserError
from dualm.randomness import stream
from dualm.sweep.grid import ALPHA, REPETITIONS

DRAWS = 1000
OUTCOMES = 5  # fantasised outcomes of a point: Gauss-Hermite nodes


@dataclass(frozen=True)
class Suggestion:
    R: int
    alpha: float
    information: float  # expected reduction of the entropy of the best alpha, nats, mean over R and surfaces


@dataclass(frozen=True)
class Posterior:
    """The posterior of a surface on a grid of R times alpha with n points in all. Lower is better."""

    draws: np.ndarray  # samples, [draws, n]
    errors: np.ndarray  # noise of a measurement in each sample, [draws]
    mean: np.ndarray  # [n]
    covariance: np.ndarray  # [n, n]
    noise: float  # standard deviation
    repetitions: int

    @classmethod
    def of(cls, surface: Surface, inputs: np.ndarray, repetitions: int) -> Posterior:
        mean, covariance = surface.process.posterior(inputs)
        errors = surface.noise * stream(0, "measured").standard_normal(DRAWS)
        draws = surface.draw_targets(inputs, DRAWS)
        return cls(draws, errors, mean, covariance, surface.noise, repetitions)

    def gain(self, point: int) -> tuple[np.ndarray, float]:
        """The change of every point per unit of surprise at `point`, `[n]`, and the predictive standard deviation there."""
        variance = self.covariance[point, point] + self.noise**2
        return self.covariance[:, point] / variance, float(np.sqrt(variance))

    def conditioned(self, point: int, outcome: float) -> np.ndarray:
        """The samples conditioned on `outcome` at `point`, `[draws, n]` (Matheron's rule)."""
        innovation = outcome - self.draws[:, point] - self.errors
        return self.draws + innovation[:, None] * self.gain(point)[0]

    def entropy(self, draws: np.ndarray) -> float:
        """The entropy of the best ratio in nats, mean over R."""
        best = draws.reshape(len(draws), self.repetitions, -1).argmin(-1)
        ratios = draws.shape[1] // self.repetitions
        shares = np.array([np.bincount(column, minlength=ratios) for column in best.T]) / len(draws)
        return float(-np.sum(shares * np.log(np.where(shares > 0, shares, 1))) / self.repetitions)

    def information(self, point: int) -> float:
        """The expected reduction of entropy by a measurement at `point`, in nats."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(OUTCOMES)
        outcomes = self.mean[point] + nodes * self.gain(point)[1]
        after = [self.entropy(self.conditioned(point, outcome)) for outcome in outcomes]
        return self.entropy(self.draws) - float(np.average(after, weights=weights))

    def updated(self, point: int) -> Posterior:
        """The posterior after a measurement at `point` whose outcome is the predicted mean."""
        gain, deviation = self.gain(point)
        covariance = self.covariance - np.outer(gain, gain) * deviation**2
        return replace(self, draws=self.conditioned(point, self.mean[point]), covariance=covariance)


def suggest(surfaces: Sequence[Surface], count: int, alphas: Sequence[float] = POOL) -> list[Suggestion]:
    """The `count` most informative untrained points, at the trained R and any of `alphas`, most informative first.

    They are chosen one after another; each choice assumes that the outcomes of those before it are the predicted means.

    Raises:
        UserError: there are fewer than `count` untrained points.
    """
    repetitions = np.unique(np.concatenate([surface.points["R"] for surface in surfaces]))
    trained = {
        (R, round(a, 9)) for each in surfaces for R, a in zip(each.points["R"], each.points["alpha"], strict=True)
    }
    points = [(int(R), float(alpha)) for R in repetitions for alpha in alphas]
    untrained = [index for index, point in enumerate(points) if (point[0], round(point[1], 9)) not in trained]
    if count > len(untrained):
        raise UserError(f"--suggest: got {count}, expected at most the {len(untrained)} points not trained yet")
    inputs = grid(repetitions, np.asarray(alphas))
    posteriors = [Posterior.of(surface, inputs, len(repetitions)) for surface in surfaces]
    chosen: list[Suggestion] = []
    for _ in range(count):
        gains = {index: np.mean([each.information(index) for each in posteriors]) for index in untrained}
        best = max(gains, key=lambda index: gains[index])
        chosen.append(Suggestion(*points[best], information=float(gains[best])))
        posteriors = [each.updated(best) for each in posteriors]
        untrained.remove(best)
    return chosen


def suggest_points(sweep: SweepAnalysis, count: int) -> list[dict[str, Any]]:
    """The `count` suggestions of each group of a sweep, as points of a sweep file: recipe keys with their values.

    Raises:
        UserError: no group has a surface, or one has fewer than `count` untrained points.
    """
    points = []
    for group in sweep.groups.values():
        runs = finished_runs(group.table)
        levels = {axis: level_value(runs[axis].iloc[0]) for axis in further_axes(sweep.table)}
        for each in suggest(group.of_objectives, count) if group.of_objectives else []:
            points.append({REPETITIONS: each.R, ALPHA: each.alpha, **levels})
    if not points:
        raise UserError(f"--suggest: got {count}, expected enough runs for a surface, see what is left out")
    return points


def write_points(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the points as the section `points:` of a sweep file."""
    comment = "# The most informative runs about the best alpha, in this order.\n"
    files.write_text(path, comment + yaml.safe_dump({"points": [dict(point) for point in points]}, sort_keys=False))
