"""Many small nonlinear least-squares problems at once: Levenberg and Marquardt with Huber's loss, within bounds.

A profile likelihood asks for a hundred fits of a law with four parameters to ten points. One after the other they take a second, of which
the arithmetic is a thousandth; here all of them take their steps together.

Source: Marquardt 1963, with the damping on the diagonal of the Gauss-Newton matrix; Huber's weights as in Holland and Welsch 1977.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEPS = 60
TOLERANCE = 1e-8  # of the loss: a step that promises less is not taken
DAMPING = 1e-3  # at first

# (parameters [problems, p], which problems [problems]) -> residuals [problems, n] and their slopes [problems, n, p]
Residuals = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def huber(residuals: np.ndarray, scale: float) -> np.ndarray:
    """Half the squares; residuals beyond `scale` count linearly. `[problems]` from `[problems, n]`."""
    size = np.abs(residuals)
    return np.where(size <= scale, residuals**2 / 2, scale * (size - scale / 2)).sum(-1)


def minimise(
    residuals: Residuals, start: np.ndarray, low: np.ndarray, high: np.ndarray, free: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The local minimum of Huber's loss from each of `start` `[problems, p]`, and the loss there `[problems]`.

    `low` and `high` `[p]` bound the parameters; those that are not `free` `[p]` stay as they are.
    """
    found, active = start.copy(), np.arange(len(start))
    values, slopes = residuals(found, active)
    loss, damping = huber(values, scale), np.full(len(start), DAMPING)
    for _ in range(STEPS):
        step, promised = _step(found[active], values[active], slopes[active], (low, high), free, damping[active], scale)
        going = promised > TOLERANCE * loss[active]
        active, step = active[going], step[going]
        if not len(active):
            break
        there = np.where(free, np.clip(found[active] + step, low, high), found[active])
        new_values, new_slopes = residuals(there, active)
        new_loss = huber(new_values, scale)
        better = new_loss < loss[active]
        gained = active[better]
        found[gained], values[gained], slopes[gained] = there[better], new_values[better], new_slopes[better]
        loss[gained] = new_loss[better]
        damping[active] *= np.where(better, 0.2, 5.0)
    return found, loss


def _step(
    here: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    free: np.ndarray,
    damping: np.ndarray,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The damped Gauss-Newton step `[problems, p]`, and how much the loss falls along its slope `[problems]`.

    A parameter at its bound that would leave it stays there.
    """
    weighted = slopes * (scale / np.maximum(np.abs(values), scale))[..., None]
    gradient = (weighted * values[..., None]).sum(1)
    held = ~free | ((here <= bounds[0]) & (gradient > 0)) | ((here >= bounds[1]) & (gradient < 0))
    gradient = np.where(held, 0.0, gradient)
    curvature = np.where(held[:, None, :] | held[:, :, None], 0.0, weighted.transpose(0, 2, 1) @ slopes)
    each = np.arange(here.shape[-1])
    curvature[:, each, each] += np.where(held, 1.0, damping[:, None] * curvature[:, each, each] + 1e-300)
    step = -np.linalg.solve(curvature, gradient[..., None])[..., 0]
    return step, -(step * gradient).sum(-1)
