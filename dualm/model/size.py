"""What a model costs, from its configuration alone: no weights are built.

Units: parameters, floating-point operations, bytes.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from dualm.config import ModelConfig
from dualm.model.head import HEADS

if TYPE_CHECKING:
    import torch

CONDITIONING = "model.conditioning."  # what the names of the parameters of time conditioning begin with
SINUSOIDS = 256  # width of the embedding of the rate: cosines and sines of half as many frequencies
PER_BLOCK, AT_THE_END = 6, 2  # shift, scale and gate of two branches; shift and scale before the head
CHUNK_ELEMENTS = 2**27  # logits that the loss holds at once: 512 MiB in float32


def head_dim(model: ModelConfig) -> int:
    return model.head_dim or model.hidden // model.heads


def query_width(model: ModelConfig) -> int:
    """Width of all heads' queries together, which is `hidden` unless `head_dim` says otherwise."""
    return model.heads * head_dim(model)


def kv_heads(model: ModelConfig) -> int:
    return model.kv_heads or model.heads


def modulation_rows(model: ModelConfig) -> int:
    """Rows of the matrix M of time conditioning."""
    return (PER_BLOCK * model.layers + AT_THE_END) * model.hidden


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's name and shape, named as in Hugging Face's Llama (Qwen3 with QK-norm)."""
    hidden, ffn = model.hidden, model.ffn
    queries, keys = query_width(model), kv_heads(model) * head_dim(model)
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    if model.qk_norm:
        block |= {"self_attn.q_norm": (head_dim(model),), "self_attn.k_norm": (head_dim(model),)}
    width = model.time_conditioning
    conditioning = {
        "time_in": (width, SINUSOIDS),
        "time_out": (width, width),
        "modulation": (modulation_rows(model), width),
    }
    return {
        "model.embed_tokens.weight": (model.vocab, hidden),
        **{f"model.layers.{i}.{name}.weight": shape for i in range(model.layers) for name, shape in block.items()},
        "model.norm.weight": (hidden,),
        **{f"lm_head.{name}": shape for name, shape in HEADS.choose(model.head).shapes(hidden, model.vocab).items()},
        **({f"{CONDITIONING}{name}.weight": shape for name, shape in conditioning.items()} if width else {}),
    }


def parameter_count(model: ModelConfig, embedding: bool = True) -> int:
    """Parameters; without `embedding`, all but the input embedding (the head counts)."""
    return sum(prod(shape) for name, shape in shapes(model).items() if embedding or name != "model.embed_tokens.weight")


def flops_per_token(model: ModelConfig, length: int) -> int:
    """Floating-point operations of training on one token, forward and backward.

    Convention (PaLM, arXiv 2204.02311, appendix B): 6 N + 12 · layers · heads · head_dim · length, with N the parameters without
    the input embedding but with the head. Attention counts in full, not halved for causal masks; the head counts for
    every position, supervised or not; recomputation does not count, nor does time conditioning, which runs once a row.
    """
    once = sum(prod(shape) for name, shape in shapes(model).items() if name.startswith(CONDITIONING))
    per_token = parameter_count(model, embedding=False) - once
    return 6 * per_token + 12 * model.layers * query_width(model) * length


def kv_cache_bytes(model: ModelConfig, batch: int, length: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of `batch` sequences of `length` tokens in all layers."""
    return 2 * model.layers * batch * length * kv_heads(model) * head_dim(model) * dtype.itemsize


def activation_bytes(model: ModelConfig, batch: int, length: int, itemsize: int = 2) -> int:
    """Estimate of what the forward pass keeps for the backward pass, plus the head's working memory.

    Counts, per token and block, in float32 the residual stream and, `itemsize` bytes a number, the rest: normed inputs, queries, keys,
    values, attention output and the four ffn-wide tensors of SwiGLU; dropout's masks, and what time conditioning
    multiplies and its products. With checkpointing only the blocks' inputs and one block are kept. Assumes attention
    that keeps no [length, length] matrix and every position supervised; leaves out the allocator's overhead and the
    kernels' scratch space.
    """
    tokens, hidden = batch * length, model.hidden
    queries, keys = query_width(model), kv_heads(model) * head_dim(model)
    stream = 4 * tokens * hidden
    block = 2 * stream + itemsize * tokens * (2 * hidden + 2 * queries + 2 * keys + 4 * model.ffn)
    block += 2 * tokens * hidden * (model.dropout > 0) + 4 * stream * (model.time_conditioning > 0)
    blocks = model.layers * stream + block if model.checkpointing else model.layers * block
    chunk = min(CHUNK_ELEMENTS, tokens * model.vocab)
    return blocks + 2 * stream + chunk * (2 * itemsize + 8)  # logits and their gradient, in the precision and float32
