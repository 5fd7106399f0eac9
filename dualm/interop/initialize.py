"""`model.init_from`: training starts from a Llama- or Qwen3-type checkpoint, or from a dualm export.

    tokenizer in our layout (an export)   rows are copied as they are
    one with our 16 reserved ids in       the first 16 rows change places
    another order
    any other tokenizer                   relabelled: ids + 16, our reserved ids in front, so 16 new rows

New rows are the mean of the checkpoint's (Hewitt 2021, "Initializing new word embeddings for pretrained language
models"), but for `<s>` and `</s>`, which are copies of its own. The exponential of a mean logit is at most the mean of
the exponentials, so with V old rows, r new ones raise the loss of a token of text by at most log(1 + r/V + p) nats,
where p is the probability that the checkpoint gave to its `<s>` and `</s>` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from dualm.config import ModelConfig
from dualm.data.tokenizer import BOS, EOS, RESERVED, Tokenizer, follows_layout, from_file, own_reserved
from dualm.errors import UserError
from dualm.model import size, weights

SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "rope_theta", "norm_eps", "qk_norm")


def initial_weights(model: ModelConfig) -> dict[str, Tensor]:
    """The parameters that training starts from: those of `model.init_from`, grown to `model.vocab` rows.

    Raises:
        UserError: what `check_sizes` refuses, or weights that are missing, damaged or of other shapes.
    """
    check_sizes(model)
    folder = _folder(model)
    _, state = weights.load(folder)
    if (order := _reserved_order(folder)) is not None:
        return grow({name: _in_order(name, rows, order) for name, rows in state.items()}, model.vocab)
    config = weights.read_config(folder)
    ids = {BOS: _first(config.get("bos_token_id")), EOS: _first(config.get("eos_token_id"))}
    return grow(state, model.vocab, RESERVED, {new: old for new, old in ids.items() if old is not None})


def grow(
    state: Mapping[str, Tensor], vocab: int, front: int = 0, copies: Mapping[int, int] | None = None
) -> dict[str, Tensor]:
    """The state with `vocab` rows in embedding and head: `front` new ones, the old ones, and new ones to the end.

    Args:
        state: parameters by name; embedding and head are `[rows, hidden]` with front + rows at most `vocab`.
        copies: which old row a new one equals; the other new ones are the mean of all old ones.
    """

    def grown(rows: Tensor) -> Tensor:
        result = rows.mean(0).repeat(vocab, 1)
        result[front : front + len(rows)] = rows
        for new, old in (copies or {}).items():
            result[new] = rows[old]
        return result

    return dict(state) | {name: grown(state[name]) for name in (weights.EMBEDDING, weights.HEAD)}


def check_sizes(model: ModelConfig) -> None:
    """Refuse a recipe whose network is not that of `model.init_from`; reads no weights.

    Raises:
        UserError: no checkpoint there, not one this network can be, or of other sizes; the message has those to set.
            Time conditioning or a head that is not linear, in the checkpoint or the recipe.
    """
    if model.init_from is None:
        return
    folder = _folder(model)
    theirs = weights.model_config(weights.read_config(folder), str(folder / "config.json"))
    for owner, config in (("model.", model), (f"model.init_from: {folder}: ", theirs)):
        if reason := weights.beyond_llama(config):
            raise UserError(f"{owner}{reason}: training starts from plain Llamas only")
    rows = theirs.vocab + (RESERVED if _reserved_order(folder) is None else 0)
    wanted = _sizes(theirs) | {"model.vocab": max(model.vocab, rows)}
    if wanted != _sizes(model) | {"model.vocab": model.vocab}:
        settings = " ".join(f"{key}={value}" for key, value in wanted.items())
        raise UserError(f"model.init_from: {folder} has other sizes than the recipe, expected {settings}")


def check_start(model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse what training could not start from. Reads the names and shapes of the weights, not the weights.

    Raises:
        UserError: what `initial_weights` refuses, or a `tokenizer` that is not the checkpoint's.
    """
    if model.init_from is None:
        return
    check_sizes(model)
    folder = _folder(model)
    weights.check(folder)
    if from_file(folder).hash != tokenizer.hash:
        raise UserError(f"data.tokenizer: is not that of model.init_from, expected data.tokenizer={folder}")


def _folder(model: ModelConfig) -> Path:
    folder = Path(str(model.init_from)).expanduser()
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise UserError(f"model.init_from: {folder} holds no {missing[0]}, expected a folder with a checkpoint")
    return folder


def _reserved_order(folder: Path) -> list[int] | None:
    """The ids of the checkpoint's tokenizer that stand for our reserved ones, in our order; None: it has none."""
    from_file(folder)  # refuses what is no tokenizer
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return list(range(RESERVED)) if follows_layout(theirs) else own_reserved(theirs)


def _in_order(name: str, tensor: Tensor, order: list[int]) -> Tensor:
    """A parameter with its first rows in another order, if they belong to tokens."""
    return torch.cat([tensor[order], tensor[len(order) :]]) if name in (weights.EMBEDDING, weights.HEAD) else tensor


def _sizes(model: ModelConfig) -> dict[str, Any]:
    derived = {"kv_heads": size.kv_heads(model), "head_dim": size.head_dim(model)}
    return {f"model.{name}": derived.get(name, getattr(model, name)) for name in SIZES}


def _first(ids: int | list[int] | None) -> int | None:
    """Of several ends of text the first is the base model's."""
    return ids[0] if isinstance(ids, list) else ids
