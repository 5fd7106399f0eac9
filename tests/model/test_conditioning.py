"""Time conditioning: read off the inputs alone, nothing at first, the same in training, evaluation and generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dualm.config import ModelConfig
from dualm.data.tokenizer import BOS, MASK, PAD
from dualm.errors import UserError
from dualm.generation.autoregressive import decode
from dualm.generation.blocks import denoise_blocks
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.model import AttentionMask, Transformer, weights
from dualm.model.backends import sdpa
from dualm.model.conditioning import SINUSOIDS, mask_rate, sinusoids
from dualm.model.transformer import Block, rotary

PLAIN = ModelConfig(layers=2, hidden=32, heads=4, ffn=48, context=24, vocab=61, qk_norm=True)
CONDITIONED = replace(PLAIN, time_conditioning=8)
LENGTH = 12
BOTH_WAYS = AttentionMask("bidirectional")


def build(config: ModelConfig = CONDITIONED, modulated: bool = True) -> Transformer:
    """A network whose zero-initialised projections are random; its modulation too, where it is to depend on the rate."""
    torch.manual_seed(0)
    model = Transformer(config).eval()
    torch.manual_seed(0)  # building draws numbers, too
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or (modulated and name.endswith("modulation.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens(masks: int = 0) -> Tensor:
    """Two rows `[2, LENGTH]`, the last tokens masked."""
    rows = torch.randint(16, CONDITIONED.vocab, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    rows[:, LENGTH - masks :] = MASK
    return rows


def loss(model: Transformer, inputs: Tensor) -> Tensor:
    rows = torch.arange(inputs.numel())
    return model(inputs, BOTH_WAYS, rows, rows % 7 + 20, torch.ones(len(rows))).nll.sum()


def test_the_rate_is_the_share_of_masks_among_tokens() -> None:
    rows = [[BOS, 20, 20, 20], [BOS, MASK, 20, MASK], [BOS, MASK, PAD, PAD], [MASK] * 4, [PAD] * 4]
    assert mask_rate(torch.tensor(rows)).tolist() == [0, 0.5, 0.5, 1, 0]


def test_sinusoids_tell_rates_apart() -> None:
    embedded = sinusoids(torch.linspace(0, 1, 129))
    assert embedded.shape == (129, SINUSOIDS)
    assert embedded[0].unique().tolist() == [0, 1]
    assert torch.cdist(embedded, embedded).fill_diagonal_(9).min() > 1


def test_at_first_it_is_the_plain_network() -> None:
    """Initial values depend on a parameter's name alone, so both have the same ones."""
    torch.testing.assert_close(
        build(modulated=False).logits(tokens(5), BOTH_WAYS), build(PLAIN).logits(tokens(5), BOTH_WAYS), rtol=0, atol=0
    )


def test_outputs_follow_the_rate() -> None:
    """One block by the formula of the module's docstring."""
    model, inputs = build(replace(CONDITIONED, layers=1)), tokens(3)
    backbone, rate = model.model, torch.tensor([3 / LENGTH])
    conditioning, block = backbone.conditioning, cast(Block, backbone.layers[0])
    assert conditioning is not None
    c = F.silu(conditioning.time_out(F.silu(conditioning.time_in(sinusoids(rate)))))
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp, shift_last, scale_last = conditioning.modulation(c)[0].chunk(8)

    x = backbone.embed_tokens(inputs)
    angles = rotary(torch.arange(LENGTH), CONDITIONED.hidden // CONDITIONED.heads, CONDITIONED.rope_theta)
    normed = block.input_layernorm(x) * (1 + scale) + shift
    x = x + block.self_attn(normed, angles, sdpa.attend, sdpa.Lowered(None, causal=False)) * (1 + gate)
    normed = block.post_attention_layernorm(x) * (1 + scale_mlp) + shift_mlp
    x = x + block.mlp(normed) * (1 + gate_mlp)
    expected = model.lm_head(backbone.norm(x) * (1 + scale_last) + shift_last)
    torch.testing.assert_close(model.logits(inputs, BOTH_WAYS), expected)


def test_a_mask_out_of_sight_is_felt_through_the_rate_alone() -> None:
    """Causally, position 0 sees nothing of the last token, whether that is masked or not."""
    model, causal = build(), AttentionMask("causal")
    masked, clean = model.logits(tokens(1), causal)[:, 0], model.logits(tokens(0), causal)[:, 0]
    assert not torch.allclose(masked, clean, atol=1e-3)
    plain = build(PLAIN)
    assert torch.equal(plain.logits(tokens(1), causal)[:, 0], plain.logits(tokens(0), causal)[:, 0])


def test_neither_padding_nor_neighbours_change_a_row() -> None:
    model, alone = build(), tokens(4)[:1]
    padded = torch.cat([F.pad(alone, (0, 5), value=PAD), torch.full((1, LENGTH + 5), MASK)])
    documents = torch.where(padded == PAD, -1, 0)
    found = model.logits(padded, AttentionMask("bidirectional", documents))[:1, :LENGTH]
    torch.testing.assert_close(found, model.logits(alone, BOTH_WAYS), rtol=1e-4, atol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = Transformer(CONDITIONED)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):  # the zero-initialised ones first, then those before them
        optimizer.zero_grad()
        loss(model, tokens(5)).backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("how", ["checkpointing", "compiled"])
def test_recomputing_and_compiling_change_nothing(how: str) -> None:
    plain, other = build(), build(replace(CONDITIONED, checkpointing=how == "checkpointing"))
    if how == "compiled":
        other.compile_blocks(backend="aot_eager", fullgraph=True)
    got, want = (torch.autograd.grad(loss(model, tokens(5)), list(model.parameters())) for model in (other, plain))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_decoding_from_a_cache_has_rate_0() -> None:
    model, prompt = build(), np.array([BOS, 20, 31])
    sampling, dice = Sampling(temperature=0, forbidden=(*NEVER, 2)), [Dice.of(0, 0, torch.device("cpu"))]
    text = prompt
    for token in decode(model, [prompt], 6, dice, sampling):
        logits = model.logits(torch.from_numpy(text)[None], AttentionMask("causal"))[0, -1]
        logits[[*sampling.forbidden]] = -torch.inf
        assert token[0] == logits.argmax()
        text = np.append(text, token)


def test_blocks_of_masks_are_refused() -> None:
    steps = denoise_blocks(
        build(), [np.array([BOS, 20])], 6, [Dice.of(0, 0, torch.device("cpu"))], Sampling(), Denoising(block=3)
    )
    with pytest.raises(UserError, match=r"^model\.time_conditioning: got 8, expected 0 to diffuse in blocks: .*rate$"):
        next(steps)


def test_round_trip(tmp_path: Path) -> None:
    model = build()
    weights.save(tmp_path, model.state_dict(), CONDITIONED)
    again, tensors = weights.load(tmp_path)
    assert again == replace(CONDITIONED, kv_heads=4, head_dim=8)
    torch.testing.assert_close(tensors, dict(model.state_dict()), rtol=0, atol=0)


def test_hugging_face_does_not_take_it_for_a_llama(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    weights.save(tmp_path, build().state_dict(), CONDITIONED)
    with pytest.raises(ValueError, match="dualm"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_configuration_that_leaves_it_open_is_refused() -> None:
    config = weights.hf_config(CONDITIONED)
    del config["time_conditioning"]
    with pytest.raises(UserError, match=r"config\.json: time_conditioning is missing"):
        weights.model_config(config, "config.json")
