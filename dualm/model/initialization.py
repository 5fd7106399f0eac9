"""Initial weights, one parameter at a time.

Matrices are normal with a standard deviation by the rule of `model.init`, truncated at two of them; the projections that write
to the residual stream are zero, so that every block starts as the identity; so is the matrix of time conditioning, so
that no norm is modulated at first; gains are one, biases zero.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dualm.config import ModelConfig
from dualm.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

ZERO = ("self_attn.o_proj.weight", "mlp.down_proj.weight", "conditioning.modulation.weight")
VOCABULARY = ("embed_tokens.weight", "lm_head.weight")
INTO_SWIGLU = re.compile(r"layers\.(\d+)\.mlp\.(gate|up)_proj\.weight$")


def small(name: str, model: ModelConfig) -> float:
    """sqrt(2 / 5h), whatever the matrix (Nguyen and Salazar, arXiv 1910.05895)."""
    return math.sqrt(2 / (5 * model.hidden))


def small_by_depth(name: str, model: ModelConfig) -> float:
    """`small`, but sqrt(2 / (h + V)) for embedding and head, and times sqrt(1 / 2i) into SwiGLU of block i = 1, 2, ...

    Source: the released code of dual language models (Samuel and Charpentier 2025), model/model.py.
    """
    if name.endswith(VOCABULARY):
        return math.sqrt(2 / (model.hidden + model.vocab))
    block = INTO_SWIGLU.search(name)
    return small(name, model) * (math.sqrt(1 / (2 * (int(block[1]) + 1))) if block else 1.0)


# By `model.init`: (name of a matrix, sizes) -> standard deviation before truncation.
INITS: Registry[Callable[[str, ModelConfig], float]] = Registry(
    "model.init", {"small": small, "small_by_depth": small_by_depth}
)


def initial(name: str, shape: Sequence[int], model: ModelConfig) -> Tensor:
    """The initial value of the parameter `name`, float32 on the host.

    A pure function of its arguments and of torch's seed: neither the order in which parameters are asked for nor the
    device or sharding of the model changes it.
    """
    import torch
    from torch import nn

    if len(shape) == 1:
        return torch.zeros(*shape) if name.endswith("bias") else torch.ones(*shape)
    if name.endswith(ZERO):
        return torch.zeros(*shape)
    seed = (torch.initial_seed() ^ zlib.crc32(name.encode())) % 2**63
    generator = torch.Generator().manual_seed(seed)
    std = INITS.choose(model.init)(name, model)
    return nn.init.trunc_normal_(torch.empty(*shape), std=std, a=-2 * std, b=2 * std, generator=generator)
