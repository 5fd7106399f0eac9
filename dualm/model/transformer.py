"""The shifted transformer.

- one network for both objectives: only the attention mask and the supervised positions differ
- the output at position i is meant to predict token i+1, in masked diffusion too
- no time input, unless `model.time_conditioning` asks for one (dualm.model.conditioning)
- pre-norm blocks, RMSNorm, no biases, untied head (`model.head` says which: dualm.model.head), optional dropout of what a branch adds
- rotary position embedding, SwiGLU, grouped-query attention, optional QK-norm
- parameters are named as in Hugging Face's Llama (Qwen3 with QK-norm), so saved weights are a Llama's
- the head computes logits for supervised positions only, a chunk at a time

Shape suffixes: B batch, L length, H hidden, N heads, K key-value heads, D head dimension, F ffn, V vocabulary,
S supervised positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dualm.config import ModelConfig
from dualm.data.tokenizer import MASK
from dualm.errors import UserError
from dualm.model import size
from dualm.model.attention import BACKENDS, AttentionMask, choose
from dualm.model.cache import Columns, KVCache
from dualm.model.conditioning import Conditioning, Modulation, Modulations, gated, modulate
from dualm.model.head import HEADS
from dualm.model.initialization import initial

# With several threads, the first torch.cos of a process over some thousand elements is now and then wrong by up to 1e-4
# (torch 2.13 on CPU, 3 of 400 processes); after any call it never was.
torch.zeros(1).cos()

Rotary = tuple[Tensor, Tensor]  # cos and sin, [L, D/2] or [B, 1, L, D/2]
Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]


class Losses(NamedTuple):
    """Per row of the batch, summed over its supervised positions; `[B]`, float32."""

    nll: Tensor  # weight · cross-entropy, in nats
    z: Tensor  # weight · logsumexp(logits)², the z-loss before its coefficient


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis (arXiv 1910.07467), in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def rotary(positions: Tensor, head_dim: int, theta: float) -> Rotary:
    """Angles of the rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2), cos and sin `[…, D/2]`."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions.float()[..., None] * frequency
    return angle.cos(), angle.sin()


class Rotate(torch.autograd.Function):
    """Turn the pairs (i, i + D/2) of `[…, L, D]` by their position's angles; back again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return turned(gradient, cos, -sin), None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = x * torch.cat([cos, cos], dim=-1)
    for half, other, sign in zip(out.chunk(2, dim=-1), reversed(x.chunk(2, dim=-1)), (-1, 1), strict=True):
        half.addcmul_(other, sin, value=sign)
    return out


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """`[…, L, D]` with its positions in it (`Rotate`), in float32."""
    return Rotate.apply(x.float(), *rotary)  # pyright: ignore[reportReturnType]


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        queries, keys = size.query_width(config), size.kv_heads(config) * size.head_dim(config)
        self.head_dim = size.head_dim(config)
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BLH: Tensor, rotary: Rotary, attend: Attend, lowered: Any) -> Tensor:
        q_BNLD = self.q_norm(self._split(self.q_proj(x_BLH)))
        k_BKLD = self.k_norm(self._split(self.k_proj(x_BLH)))
        v_BKLD = self._split(self.v_proj(x_BLH))
        # Back from the angles' float32: under autocast kernels want the projections' dtype.
        q_BNLD, k_BKLD = rotate(q_BNLD, rotary).to(v_BKLD.dtype), rotate(k_BKLD, rotary).to(v_BKLD.dtype)
        out_BNLD = attend(q_BNLD, k_BKLD, v_BKLD, lowered)
        return self.o_proj(out_BNLD.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Gate(torch.autograd.Function):
    """SiLU(gate) · up, keeping only its two inputs for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class SwiGLU(nn.Module):
    """arXiv 2002.05202, equation 6."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(Gate.apply(self.gate_proj(x), self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BLH: Tensor,
        rotary: Rotary,
        attend: Attend,
        lowered: Any,
        modulations: Modulations = (None, None),
        outputs: Tensor | None = None,
    ) -> Tensor:
        """With `outputs`, indices into the flattened `[B · L]`, only these go on after attention: `[S, H]`, without modulations."""
        attention, mlp = modulations
        normed = modulate(self.input_layernorm(x_BLH), attention)
        x_BLH = x_BLH + self.dropout(gated(self.self_attn(normed, rotary, attend, lowered), attention))
        if outputs is not None:
            x_BLH = x_BLH.flatten(0, 1).index_select(0, outputs)
        normed = modulate(self.post_attention_layernorm(x_BLH), mlp)
        return x_BLH + self.dropout(gated(self.mlp(normed), mlp))


class Backbone(nn.Module):
    """Tokens to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.conditioning = Conditioning(config) if config.time_conditioning else None

    def forward(self, inputs_BL: Tensor, attention: AttentionMask, outputs: Tensor | None = None) -> Tensor:
        (batch, length), device = inputs_BL.shape, inputs_BL.device
        x_BLH = self.embed_tokens(inputs_BL)
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else x_BLH.dtype
        backend = choose(self.config.attention, attention, device, dtype)
        lowered = backend.lower(attention, batch, length, device)
        angles = rotary(torch.arange(length, device=device), size.head_dim(self.config), self.config.rope_theta)
        modulations, last = self._modulations(inputs_BL)
        early = self.conditioning is None and not self.config.checkpointing
        last_block = self.layers[-1] if early else None  # which drops all but the outputs before its MLP
        for block, modulation in zip(self.layers, modulations, strict=True):
            if self.config.checkpointing:
                x_BLH = checkpoint(block, x_BLH, angles, backend.attend, lowered, modulation, use_reentrant=False)
            else:
                kept = outputs if block is last_block else None
                x_BLH = block(x_BLH, angles, backend.attend, lowered, modulation, kept)
        if outputs is not None and last_block is None:
            return modulate(self.norm(x_BLH), last).flatten(0, 1).index_select(0, outputs)
        return modulate(self.norm(x_BLH), last)

    def _modulations(self, inputs_BL: Tensor) -> tuple[list[Modulations], Modulation | None]:
        """Those of every block, and of the last norm."""
        if self.conditioning is None:
            return [(None, None)] * self.config.layers, None
        return self.conditioning(inputs_BL)

    def extend(self, inputs_BL: Tensor, columns: Columns, visible: Tensor | None, cache: KVCache) -> Tensor:
        """Hidden states of tokens that stand in given columns of a cache and see what `visible` says of it."""
        if self.conditioning is not None and bool((inputs_BL == MASK).any()):
            width = self.config.time_conditioning
            raise UserError(
                f"model.time_conditioning: got {width}, expected 0 to diffuse in blocks: a cache knows no mask rate"
            )
        x_BLH = self.embed_tokens(inputs_BL)
        angles = rotary(cache.positions(columns)[:, None], size.head_dim(self.config), self.config.rope_theta)
        bias = cache.bias(visible)
        modulations, last = self._modulations(inputs_BL)
        for layer, (block, modulation) in enumerate(zip(self.layers, modulations, strict=True)):
            x_BLH = block(x_BLH, angles, cache.attend(layer, columns), bias, modulation)
        return modulate(self.norm(x_BLH), last)


def never_predicted(attention: AttentionMask) -> int | None:
    """The token of zero masking probabilities (SUBS: Sahoo et al. 2024, section 3.2.3): `<mask>` where masks are filled.

    That is under bidirectional attention. A causal model may predict every token.
    """
    return MASK if attention.kind == "bidirectional" else None


class Transformer(nn.Module):
    """The whole network. Raises UserError for an unknown `model.attention`, `model.head` or `model.init`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        BACKENDS.choose(config.attention)
        self.config = config
        self.model = Backbone(config)
        self.lm_head = HEADS.choose(config.head)(config.hidden, config.vocab)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Give every parameter its initial value, which depends on torch's seed and the parameter's name alone."""
        for name, parameter in self.named_parameters():
            parameter.copy_(initial(name, parameter.shape, self.config))

    def forward(
        self,
        inputs: Tensor,
        attention: AttentionMask,
        outputs: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> Losses:
        """Losses at the supervised positions.

        Args:
            inputs: `[B, L]` int64 tokens.
            outputs: `[S]` int64, the supervised outputs as indices into the flattened `[B · L]`; S = 0 gives zero losses
                with a graph to every parameter (under ZeRO every rank must run every module).
            targets: `[S]` int64, the token each of them predicts.
            weights: `[S]` float32.
        """
        hidden_SH = self.model(inputs, attention).flatten(0, 1).index_select(0, outputs)
        nll_S, log_z_S = self.lm_head(hidden_SH, targets, never_predicted(attention))
        zeros_B, row_S = nll_S.new_zeros(inputs.shape[0]), outputs // inputs.shape[1]
        return Losses(
            nll=zeros_B.index_add(0, row_S, weights * nll_S), z=zeros_B.index_add(0, row_S, weights * log_z_S**2)
        )

    def hidden(self, inputs: Tensor, attention: AttentionMask, outputs: Tensor | None = None) -> Tensor:
        """`[B, L]` tokens → final hidden states `[B, L, H]`, or `[S, H]` of the flat indices `outputs` into `[B · L]`."""
        return self.model(inputs, attention, outputs)

    def logits(self, inputs: Tensor, attention: AttentionMask, outputs: Tensor | None = None) -> Tensor:
        """Float32 logits `[B, L, V]` as the network gives them, or `[S, V]` of the flat indices `outputs` into `[B · L]`."""
        return self.lm_head(self.model(inputs, attention, outputs))

    def extend(self, inputs: Tensor, columns: Columns, visible: Tensor | None, cache: KVCache) -> Tensor:
        """Read tokens into a cache, and return their final hidden states `[B, L, H]`; `self.lm_head` makes logits.

        For reading only: the cache is written in place, so it must be called without gradients.

        Args:
            inputs: `[B, L]` int64 tokens.
            columns: the column of the cache that each one's keys and values are written to: `[B, L]` int64, or a slice of L
                columns in every row, which is faster.
            visible: bool `[B or 1, 1, L, C]`: may the token see the cache's first C columns? They hold, by then, the
                tokens of this call too. None: it sees all up to its own, of columns that are a slice; one token, or from column 0.

        Raises:
            UserError: a mask in the inputs of a network with time conditioning, which needs the rate of all tokens.
        """
        return self.model.extend(inputs, columns, visible, cache)

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block in place (parameter names stay). Options are those of `torch.compile`."""
        for block in self.model.layers:
            block.compile(**options)

    def parameter_count(self, embedding: bool = True) -> int:
        """See `size.parameter_count`."""
        return size.parameter_count(self.config, embedding)

    def flops_per_token(self, length: int) -> int:
        """See `size.flops_per_token`."""
        return size.flops_per_token(self.config, length)

    def kv_cache_bytes(self, batch: int, length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        """See `size.kv_cache_bytes`."""
        return size.kv_cache_bytes(self.config, batch, length, dtype)
