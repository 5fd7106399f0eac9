"""From final hidden states to logits or losses: the choices of `model.head`.

    linear  E x                            a Llama's
    mlp     E gelu_tanh(P x) + b           of dual language models (Samuel and Charpentier 2025; model/model.py of the released code)

x is the output of the last norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dualm.registry import Registry


@dataclass(frozen=True)
class Head:
    """How to build a head of sizes (hidden, vocab), and the shapes of its parameters without building it."""

    build: Callable[[int, int], Any]
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]

    def __call__(self, hidden: int, vocab: int) -> Any:
        return self.build(hidden, vocab)


def linear(hidden: int, vocab: int) -> Any:
    from dualm.model.head_layers import LMHead

    return LMHead(hidden, vocab)


def mlp(hidden: int, vocab: int) -> Any:
    from dualm.model.head_layers import MLPHead

    return MLPHead(hidden, vocab)


HEADS = Registry(
    "model.head",
    {
        "linear": Head(linear, lambda hidden, vocab: {"weight": (vocab, hidden)}),
        "mlp": Head(
            mlp, lambda hidden, vocab: {"weight": (vocab, hidden), "bias": (vocab,), "dense.weight": (hidden, hidden)}
        ),
    },
)
