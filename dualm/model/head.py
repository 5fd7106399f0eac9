"""From final hidden states to logits or losses: the choices of `model.head`.

    linear  E x                            a Llama's
    mlp     E gelu_tanh(P x) + b           of dual language models (Samuel and Charpentier 2025; model/model.py of the released code)

x is the output of the last norm.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dualm.model.loss import linear_cross_entropy, linear_logits
from dualm.registry import Registry


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

    @staticmethod
    def shapes(hidden: int, vocab: int) -> dict[str, tuple[int, ...]]:
        """Its parameters, without building it."""
        return {"weight": (vocab, hidden)}


class MLPHead(LMHead):
    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__(hidden, vocab, bias=True)
        self.dense = nn.Linear(hidden, hidden, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, excluded: int | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(F.gelu(self.dense(hidden), approximate="tanh"), targets, excluded)

    @staticmethod
    def shapes(hidden: int, vocab: int) -> dict[str, tuple[int, ...]]:
        return {"weight": (vocab, hidden), "bias": (vocab,), "dense.weight": (hidden, hidden)}


HEADS: Registry[type[Any]] = Registry("model.head", {"linear": LMHead, "mlp": MLPHead})
