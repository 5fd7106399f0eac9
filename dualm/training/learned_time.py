"""`objective.time: learned`: t drawn in proportion to what is still to be learned at it.

    error(t) = max(0, loss(t) - floor)      cross-entropy of a masked token, by bin of t
    q(t)     ~ 0.9 error(t) + 0.1           a tenth stays uniform, so that every t is seen again

The loss of a bin is a running mean over training, and q changes every `objective.time_refresh` steps. Both are part of
a checkpoint, so a resumed run draws what one never stopped would have drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dualm.config import ObjectiveConfig
from dualm.objectives.example import Batch
from dualm.objectives.time import BINS, Density, histogram, on_grid

MEMORY = 0.5  # of the running mean, per refresh
UNIFORM_SHARE = 0.1


class LearnedTime:
    """The running loss by bin of t, and the density in force; without `time: learned` never due and nothing to count.

    Every rank holds one, and they agree at each refresh.
    """

    def __init__(self, config: ObjectiveConfig, device: torch.device) -> None:
        self.every = config.time_refresh if config.time == "learned" else 0
        self.steps = config.time_steps
        self.floor = config.time_floor
        self.loss = np.full(BINS, np.nan)  # nats per masked token
        self.shares = np.ones(BINS) / BINS
        self._sums = torch.zeros(2, BINS, dtype=torch.float64, device=device)  # since the last refresh: losses, rows

    @property
    def density(self) -> Density:
        return on_grid(histogram(self.shares.tolist()), self.steps)

    def is_due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def add(self, batch: Batch, nll: torch.Tensor) -> None:
        """Count the rows of a micro-batch of masked diffusion and their losses `[batch]`."""
        if not self.every:
            return
        row = batch.outputs // batch.inputs.shape[1]
        weights = torch.zeros(len(batch.inputs), dtype=torch.float64).index_add(0, row, batch.weights.double())
        bins = np.clip(np.ceil(batch.rates * BINS).astype(int) - 1, 0, BINS - 1)
        loss = nll.detach().double() / weights.clamp(min=1e-12).to(nll.device)
        counted = torch.isfinite(loss) & (weights > 0).to(nll.device)
        here = torch.from_numpy(bins).to(nll.device)
        self._sums[0].index_add_(0, here, torch.where(counted, loss, 0.0))
        self._sums[1].index_add_(0, here, counted.double())

    def refresh(self) -> None:
        """Move the running loss on and change the density. All ranks must call it."""
        sums, counts = self._gathered()
        seen = counts > 0
        fresh = sums[seen] / counts[seen]
        self.loss[seen] = np.where(np.isnan(self.loss[seen]), fresh, MEMORY * self.loss[seen] + (1 - MEMORY) * fresh)
        self._sums.zero_()
        if not np.isnan(self.loss).all():  # an alpha schedule may begin without masked diffusion
            self.shares = learnable_shares(self.loss, self.floor)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of it, None where nothing is learned. All ranks must call it."""
        if not self.every:
            return None
        sums, counts = self._gathered()
        arrays = {"loss": self.loss, "shares": self.shares, "sums": sums, "counts": counts}
        return {name: values.tolist() for name, values in arrays.items()}

    def restore(self, state: dict[str, Any] | None, first: bool) -> None:
        """Go on from a `state`; its sums go to the first rank alone, so that they count once."""
        if state:
            self.loss, self.shares = np.array(state["loss"]), np.array(state["shares"])
            self._sums.copy_(torch.tensor([state["sums"], state["counts"]], dtype=torch.float64) * first)

    def _gathered(self) -> tuple[np.ndarray, np.ndarray]:
        total = self._sums.clone()
        torch.distributed.all_reduce(total)
        sums, counts = total.cpu().numpy()
        return sums, counts


def learnable_shares(loss: np.ndarray, floor: float | None) -> np.ndarray:
    """The mass of each bin from its loss `[bins]` (NaN: not seen, which counts as the mean of the others)."""
    known = np.where(np.isnan(loss), np.nanmean(loss), loss)
    error = np.maximum(0.0, known - (known.min() if floor is None else floor))
    learnable = error / error.sum() if error.any() else np.ones(len(loss)) / len(loss)
    return (1 - UNIFORM_SHARE) * learnable + UNIFORM_SHARE / len(loss)
