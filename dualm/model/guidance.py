"""What a model predicts at given outputs, with or without classifier-free guidance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualm.data.tokenizer import MASK
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer, never_predicted

LOGITS_AT_ONCE = 2**25  # 128 MiB in float32


class Query(NamedTuple):
    """Outputs to read: the flat indices `outputs` `[n]` into `inputs` `[batch, length]` under an attention mask.

    `unconditional` `[batch, length]` are the inputs as guidance sees them
    without their context, and `guidance` is its weight; a weight of 0 asks the model once.
    """

    inputs: Tensor
    attention: AttentionMask
    outputs: Tensor
    unconditional: Tensor | None = None
    guidance: float = 0.0


def without_context(tokens: np.ndarray, given: np.ndarray) -> np.ndarray:
    """`tokens` `[rows, length]` with the positions where `given` is true masked, but for position 0.

    This is the unconditional side of unsupervised guidance (SMDM, section 4.2): the model was trained on masks, so it
    needs no training to go without its context. Position 0 stays: in training it is never masked.
    """
    return np.where(given & (np.arange(tokens.shape[1]) > 0), MASK, tokens)


@torch.no_grad()
def logits(model: Transformer, query: Query) -> Iterator[Tensor]:
    """The float32 logits of the query's outputs `[n, vocab]`, in chunks of at most LOGITS_AT_ONCE, in order."""

    def hidden(inputs: Tensor) -> Tensor:
        return model.hidden(inputs, query.attention, query.outputs)

    guided = query.guidance != 0 and query.unconditional is not None
    without = hidden(query.unconditional) if guided and query.unconditional is not None else None
    yield from head_logits(model, hidden(query.inputs), without, query.guidance, never_predicted(query.attention))


@torch.no_grad()
def head_logits(
    model: Transformer, conditional: Tensor, unconditional: Tensor | None, guidance: float, excluded: int | None
) -> Iterator[Tensor]:
    """From final hidden states `[n, hidden]`, with and perhaps without context, to guided logits in chunks.

    With guidance w they are un + (1 + w) (cond − un) (Ho and Salimans 2022, equation 6, in logits).
    """
    step = max(1, LOGITS_AT_ONCE // model.config.vocab)
    for start in range(0, len(conditional), step):
        chunk = model.lm_head(conditional[start : start + step])
        if unconditional is not None:
            without = model.lm_head(unconditional[start : start + step])
            chunk = without + (1 + guidance) * (chunk - without)
        if excluded is not None:
            chunk[:, excluded] = -torch.inf
        yield chunk
