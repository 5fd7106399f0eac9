"""The moving average of the weights: what is validated, sampled from and saved; training goes on from the last ones.

    average <- d · average + (1 − d) · weights     after update n = 1, 2, ..., with d = min(decay, (1 + n) / (10 + n))

The rising d lets the initial weights fade within tens of updates instead of 1 / (1 − decay) of them. MDLM (Sahoo et al.
2024) trains so with decay 0.9999; averages of iterates go back to Polyak and Juditsky 1992.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def decay_of(update: int, decay: float) -> float:
    """d of update number `update`, counted from 1."""
    return min(decay, (1 + update) / (10 + update))


class WeightAverage:
    """The average of an engine's weights. With decay 0 none is kept, and no method does anything.

    At ZeRO stage 3 each rank averages its own part of every parameter, at the other stages the whole. The optimizer's
    fp32 masters are never touched. All ranks must call every method.
    """

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine, self.decay = engine, decay
        self.partitioned = engine.zero_optimization_stage() == 3
        self.parameters: dict[str, nn.Parameter] = dict(engine.module.named_parameters()) if decay else {}
        self.averages = [self._part(parameter).clone() for parameter in self.parameters.values()]

    def _part(self, parameter: Any) -> Tensor:
        """What this rank keeps of a parameter."""
        return parameter.ds_tensor.data if self.partitioned else parameter.data

    def update(self) -> None:
        """Take in the weights after an optimizer step. A skipped step left them as they were and does not count."""
        if not self.engine.was_step_applied():
            return
        d = decay_of(self.engine.global_steps - self.engine.skipped_steps, self.decay)
        for parameter, average in zip(self.parameters.values(), self.averages, strict=True):
            average.lerp_(self._part(parameter), 1 - d)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model's parameters are the averages; afterwards the trained ones again, to the last bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        everything: list[Any] = list(self.parameters.values())
        if everything and self.partitioned:
            everything[0].partition(everything)  # drops gathered copies; later readers gather again
        for parameter, average in zip(everything, self.averages, strict=True):
            part = self._part(parameter)
            trained = part.clone()
            part.copy_(average)
            average.copy_(trained)

    @torch.no_grad()
    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Go on from whole `averages` by name, those of a checkpoint."""
        import deepspeed

        with self.in_place():
            for name, parameter in self.parameters.items():
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.partitioned):
                    parameter.copy_(averages[name])
