"""The sides of the training benchmarks: each is a step, with forward, backward, clipping to norm 1 and AdamW in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import synthetic
from dualm.config import ModelConfig, ObjectiveConfig
from dualm.model.transformer import Transformer
from dualm.objectives.example import Batch
from dualm.training.distributed import World
from dualm.training.engine import build_engine
from dualm.training.optimizers import adamw

Step = Callable[[], object]
NO_BORDERS = 10**9  # tokens of a document: longer than any window, so that no side needs a mask of documents
CLIP = 1.0


def batch(objective: str, model: ModelConfig, size: int) -> Batch:
    return synthetic.batch(objective, model, size, NO_BORDERS)


def network(model: ModelConfig) -> Transformer:
    """With random weights also where training starts from zeros."""
    made = Transformer(model)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return made


def engine_step(model: ModelConfig, here: World, micro: Sequence[Batch], optimizer: str = "adamw") -> Step:
    """A step of `dualm train`: the engine and its optimizer over the micro-batches."""
    size = len(micro[0].rates)
    recipe = synthetic.recipe(model, ObjectiveConfig(), len(micro) * size, size)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, name=optimizer, clip=CLIP))
    engine = build_engine(recipe, network(model), here, zero_stage=0)

    def step() -> None:
        for one in micro:
            engine.backward(engine(*one.arguments).nll.mean())
            engine.step()

    return step


def plain_step(model: ModelConfig, one: Batch) -> Step:
    """The same network and optimizer without an engine."""
    config = replace(synthetic.recipe(model, ObjectiveConfig(), 1, 1).optimizer, clip=CLIP)
    made = network(model)
    optimizer = adamw(made.named_parameters(), config, zero_stage=0)

    def step() -> None:
        made(*one.arguments).nll.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def torch_step(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Of any module, with torch's AdamW and clipping."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def llama_step(model: ModelConfig, one: Batch) -> Step:
    """transformers' Llama of the same shape, with its own loss over all positions, the unsupervised ones ignored."""
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=model.vocab,
            hidden_size=model.hidden,
            intermediate_size=model.ffn,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            max_position_embeddings=model.context,
            tie_word_embeddings=False,
        )
    )
    if one.attention.kind == "bidirectional":
        make_bidirectional(llama)
    labels = positions(one)
    given = {"input_ids": one.inputs, "labels": labels, "shift_labels": labels, "use_cache": False}
    return torch_step(llama, lambda: llama(**given).loss)


def positions(one: Batch) -> Tensor:
    """The targets by position `[batch, length]`, -100 where an output is not supervised."""
    targets = torch.full_like(one.inputs, -100).flatten()
    targets[one.outputs] = one.targets
    return targets.view_as(one.inputs)


def make_bidirectional(llama: Any) -> None:
    for layer in llama.model.layers:
        layer.self_attn.is_causal = False
    one, other = torch.full((1, 8), 20), torch.full((1, 8), 20)
    other[0, -1] = 21
    with torch.no_grad():
        assert not torch.equal(llama(one).logits[0, 0], llama(other).logits[0, 0]), "still causal"


class GPT(nn.Module):
    """A network as nanoGPT trains: LayerNorm, learned positions, one matrix for q, k and v, GELU of four times the width, a
    head tied to the embedding, no biases (github.com/karpathy/nanoGPT, its README and the defaults it names)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.tokens, self.positions = (nn.Embedding(rows, model.hidden) for rows in (model.vocab, model.context))
        self.blocks = nn.ModuleList(GPTBlock(model.hidden, model.heads) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.hidden, bias=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(F.linear(self.norm(x), self.tokens.weight).flatten(0, 1), targets.flatten())


class GPTBlock(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, bias=False) for _ in range(2))
        shapes = ((hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden))
        self.qkv, self.out, self.up, self.down = (nn.Linear(*shape, bias=False) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


def gpt_step(model: ModelConfig, one: Batch) -> Step:
    """Of a GPT with as many layers, as wide: within a tenth the same FLOPs."""
    gpt = GPT(model)
    targets = positions(one)
    return torch_step(gpt, lambda: gpt(one.inputs, targets))
