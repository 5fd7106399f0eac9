"""The layers of the heads, see `head`."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dualm.model.loss import linear_cross_entropy, linear_logits


class LMHead(nn.Linear):
    """Hidden states to logits or to losses.

    Both in `forward`: under ZeRO-3 the weight is whole only inside it.
    """

    def __init__(self, hidden: int, vocab: int, bias: bool = False) -> None:
        super().__init__(hidden, vocab, bias=bias)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, excluded: int | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if targets is None:
            return linear_logits(hidden, self.weight, excluded, self.bias)
        return linear_cross_entropy(hidden, self.weight, targets, excluded, bias=self.bias)


class MLPHead(LMHead):
    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__(hidden, vocab, bias=True)
        self.dense = nn.Linear(hidden, hidden, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, excluded: int | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(F.gelu(self.dense(hidden), approximate="tanh"), targets, excluded)
