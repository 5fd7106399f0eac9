"""The network as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dualm.config import ModelConfig
from dualm.data.tokenizer import MASK
from dualm.errors import UserError
from dualm.model import AttentionMask, Transformer, loss, size
from dualm.model.attention import Kind
from dualm.model.head import HEADS
from dualm.model.layout import by_inputs
from dualm.model.transformer import rotary, rotate

TINY = ModelConfig(layers=2, hidden=32, heads=4, kv_heads=2, ffn=48, context=24, vocab=61, qk_norm=True)
BATCH, LENGTH = 3, 24
CAUSAL = AttentionMask("causal")


def build(config: ModelConfig = TINY, seed: int = 0) -> Transformer:
    """A network whose zero-initialised projections are random, so that every parameter matters."""
    torch.manual_seed(seed)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(16, TINY.vocab, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def supervision(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """rows, targets, weights of `count` supervised positions, spread unevenly over the batch."""
    generator = torch.Generator().manual_seed(count)
    rows = torch.randperm(BATCH * LENGTH, generator=generator)[:count]
    return rows, torch.randint(4, TINY.vocab, (count,), generator=generator), torch.rand(count, generator=generator) * 9


def gradients(model: Transformer, value: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_losses_equal_the_naive_computation(kind: Kind, head: str) -> None:
    model, inputs, (rows, targets, weights) = build(replace(TINY, head=head)), tokens(), supervision(31)
    attention = AttentionMask(kind)
    losses = model(inputs, attention, rows, targets, weights)

    logits = model.logits(inputs, attention).flatten(0, 1)[rows]
    if kind == "bidirectional":  # SUBS: a mask is never predicted
        logits = logits.index_fill(-1, torch.tensor(MASK), -torch.inf)
    nll, z = F.cross_entropy(logits, targets, reduction="none"), logits.logsumexp(-1) ** 2
    for got, each in ((losses.nll, nll), (losses.z, z)):
        want = torch.stack([(weights * each)[rows // LENGTH == b].sum() for b in range(BATCH)])
        torch.testing.assert_close(got, want)
    got, want = gradients(model, losses.nll.sum()), gradients(model, (weights * nll).sum())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_head_of_two_matrices() -> None:
    model, inputs = build(replace(TINY, head="mlp")), tokens()
    head = dict(model.lm_head.named_parameters())
    head["bias"].data.uniform_(-1, 1)
    x = model.model.norm(torch.randn(5, TINY.hidden))
    tanh = torch.tanh((2 / torch.pi) ** 0.5 * ((p := x @ head["dense.weight"].T) + 0.044715 * p**3))
    torch.testing.assert_close(model.lm_head(x), (0.5 * p * (1 + tanh)) @ head["weight"].T + head["bias"])
    assert model.logits(inputs, CAUSAL).shape == (BATCH, LENGTH, TINY.vocab)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_gets_a_gradient(head: str) -> None:
    model = build(replace(TINY, head=head))
    got = gradients(model, model(tokens(), CAUSAL, *supervision(50)).nll.sum())
    assert all(gradient.abs().sum() > 0 for gradient in got.values())


def test_recomputation_draws_the_same_dropout() -> None:
    found = []
    for checkpointing in (False, True):
        model = build(replace(TINY, dropout=0.5, checkpointing=checkpointing))
        torch.manual_seed(3)
        found.append(gradients(model, model(tokens(), CAUSAL, *supervision(20)).nll.sum()))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_supervised_gives_zero_gradients_everywhere(checkpointing: bool) -> None:
    model = build(replace(TINY, checkpointing=checkpointing))
    losses = model(tokens(), CAUSAL, *supervision(0))
    assert losses.nll.eq(0).all()
    assert losses.z.eq(0).all()
    assert losses.nll.shape == (BATCH,)
    (losses.nll.sum() + losses.z.sum()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in model.parameters())


@pytest.mark.parametrize(
    "mask", [CAUSAL, AttentionMask("prefix", torch.arange(24).expand(3, 24) // 10, torch.ones(3).int() * 5)]
)
def test_checkpointing_changes_nothing(mask: AttentionMask) -> None:
    plain, light = build(), build(replace(TINY, checkpointing=True))
    got, want = (gradients(m, m(tokens(), mask, *supervision(20)).nll.sum()) for m in (light, plain))
    torch.testing.assert_close(got, want)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *(x.numel() for x in tensors)])
        return out


def test_a_step_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, vocab=5000)
    chunk, count = 4 * config.vocab, 40
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", chunk)
    model = build(config)
    with LargestTensor() as largest:
        model(tokens(), CAUSAL, *supervision(count)).nll.sum().backward()
    weights = config.vocab * config.hidden  # the head and its gradient
    assert chunk <= largest.numel <= max(chunk, weights) < count * config.vocab < BATCH * LENGTH * config.vocab


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("kind", ["causal", "bidirectional", "prefix"])
def test_a_changed_token_changes_exactly_the_outputs_that_may_see_it(kind: Any, documents: bool) -> None:
    """One layer, so that what an output sees is what its attention sees."""
    ids = torch.arange(LENGTH).expand(BATCH, LENGTH) // 9 if documents else None
    mask = AttentionMask(kind, ids, torch.tensor([1, 7, 20]) if kind == "prefix" else None)
    model, inputs = build(replace(TINY, layers=1)), tokens()
    visible = mask.dense(BATCH, LENGTH, "cpu").expand(BATCH, 1, LENGTH, LENGTH)[:, 0]
    with torch.no_grad():
        before = model.logits(inputs, mask)
        for j in (0, 5, 12, LENGTH - 1):
            other = inputs.clone()
            other[:, j] = (other[:, j] + 1) % TINY.vocab
            changed = (model.logits(other, mask) != before).any(-1)
            assert torch.equal(changed, visible[:, :, j])


def test_rotary_attention_depends_on_distance_alone() -> None:
    q, k = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()

    def score(i: int, j: int) -> float:
        turned_q, turned_k = (rotate(x, rotary(torch.tensor([p]), 16, 1e4)) for x, p in ((q, i), (k, j)))
        return float((turned_q * turned_k).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(3, 1) == pytest.approx(score(1003, 1001), abs=1e-3)
    assert score(3, 1) != pytest.approx(score(4, 1), abs=1e-2)


def test_initial_weights_follow_the_seed_and_the_paper() -> None:
    torch.manual_seed(7)
    first = Transformer(TINY).state_dict()
    torch.manual_seed(7)
    torch.rand(3)  # numbers drawn in between don't matter
    second = Transformer(TINY).state_dict()
    torch.manual_seed(8)
    other = Transformer(TINY).state_dict()
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert not torch.equal(first["lm_head.weight"], first["model.embed_tokens.weight"])

    std = (2 / (5 * TINY.hidden)) ** 0.5
    for name, tensor in first.items():
        if name.endswith("norm.weight"):
            assert tensor.eq(1).all()
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            assert tensor.eq(0).all()
        else:
            assert tensor.abs().max() <= 2 * std
            assert tensor.std() == pytest.approx(0.88 * std, rel=0.1)  # of a normal cut at two deviations


def test_initial_weights_of_the_released_code() -> None:
    """Embedding and head sqrt(2 / (h + V)), gate and value times sqrt(1 / 2i), biases zero."""
    config = replace(TINY, layers=3, hidden=64, vocab=2000, head="mlp", init="small_by_depth")
    torch.manual_seed(7)
    state = Transformer(config).state_dict()
    small, vocabulary = (2 / (5 * 64)) ** 0.5, (2 / (64 + 2000)) ** 0.5
    expected = {"lm_head.weight": vocabulary, "model.embed_tokens.weight": vocabulary, "lm_head.dense.weight": small}
    for i in range(3):
        expected |= {f"model.layers.{i}.self_attn.{name}_proj.weight": small for name in "qkv"}
        expected |= {f"model.layers.{i}.mlp.{name}_proj.weight": small / (2 * i + 2) ** 0.5 for name in ("gate", "up")}
    for name, std in expected.items():
        assert state[name].abs().max() <= 2 * std
        assert state[name].std() == pytest.approx(0.88 * std, rel=0.05), name
    zero = [name for name, tensor in state.items() if tensor.eq(0).all()]
    assert sorted(set(zero)) == sorted(
        name for name in state if name.endswith(("o_proj.weight", "down_proj.weight", "bias"))
    )
    assert all(tensor.eq(1).all() for name, tensor in state.items() if name.endswith("norm.weight"))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, qk_norm=False, kv_heads=None),
        ModelConfig(),
        replace(TINY, time_conditioning=8),
        replace(TINY, head="mlp"),
    ],
)
def test_static_sizes_equal_the_real_ones(config: ModelConfig) -> None:
    model = Transformer(config)
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == size.shapes(config)
    assert model.parameter_count() == sum(p.numel() for p in model.parameters())
    without = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
    assert model.parameter_count(embedding=False) == without
    once = sum(p.numel() for n, p in model.named_parameters() if "conditioning" in n)  # a row, not a token
    assert model.flops_per_token(128) == 6 * (without - once) + 12 * config.layers * config.hidden * 128
    keys = model.model.layers[0].self_attn.k_proj(torch.zeros(5, 7, config.hidden))  # pyright: ignore
    assert model.kv_cache_bytes(5, 7, torch.float32) == 2 * config.layers * keys.numel() * 4


def test_sizes_of_a_huge_model_need_no_weights() -> None:
    huge = ModelConfig(layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672, context=8192, vocab=32000)
    assert 68e9 < size.parameter_count(huge) < 70e9
    assert size.activation_bytes(replace(huge, checkpointing=True), 1, 8192) < size.activation_bytes(huge, 1, 8192) / 4


@pytest.mark.parametrize("more", [{}, {"dropout": 0.1, "time_conditioning": 8}])
def test_activation_estimate_is_near_what_autograd_keeps(more: dict[str, Any]) -> None:
    config = replace(TINY, layers=4, hidden=64, ffn=192, qk_norm=False, **more)
    model, kept = build(config), {}
    known = {p.data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.hidden(tokens(), CAUSAL)
    assert hidden.requires_grad
    estimate = size.activation_bytes(replace(config, vocab=0), BATCH, LENGTH, 4)
    assert 0.5 < estimate / sum(kept.values()) < 1.5


def test_dropout_is_in_training_only_and_follows_the_seed() -> None:
    model, plain = build(replace(TINY, dropout=0.5)), build()

    def hidden(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.hidden(tokens(), CAUSAL)

    assert torch.equal(hidden(1), hidden(1))
    assert not torch.allclose(hidden(1), hidden(2), atol=0.1)
    assert not torch.allclose(hidden(1), plain.hidden(tokens(), CAUSAL), atol=0.1)
    model.eval()
    assert torch.equal(hidden(1), plain.hidden(tokens(), CAUSAL))


def test_dropout_keeps_what_a_branch_adds_on_average() -> None:
    """One block without a norm behind it, so that the mean over many draws is that of what is added."""
    model = build(replace(TINY, layers=1, dropout=0.3))
    model.model.norm = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    model.model.layers[0].mlp.down_proj.weight.data.zero_()  # pyright: ignore
    torch.manual_seed(0)
    draws = torch.stack([model.hidden(tokens(), CAUSAL).detach() for _ in range(400)])
    expected = model.eval().hidden(tokens(), CAUSAL).detach()
    error = draws.std(0) / 400**0.5
    assert ((draws.mean(0) - expected).abs() / error.clamp(min=1e-6)).pow(2).mean() == pytest.approx(1, abs=0.1)
    added = (draws != model.model.embed_tokens(tokens()).detach()).float().mean()
    assert added == pytest.approx(0.7, abs=0.01)


def test_blocks_compile_in_place() -> None:
    model, plain = build(), build()
    model.compile_blocks(backend="aot_eager", fullgraph=True)
    assert list(model.state_dict()) == list(plain.state_dict())
    for mask in (CAUSAL, AttentionMask("bidirectional", torch.arange(LENGTH).expand(BATCH, LENGTH) // 9)):
        got, want = (gradients(m, m(tokens(), mask, *supervision(20)).nll.sum()) for m in (model, plain))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_autocast_runs_projections_in_bf16_and_losses_in_float32() -> None:
    model = build()
    exact = model(tokens(), CAUSAL, *supervision(20))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(tokens(), CAUSAL, *supervision(20))
    assert losses.nll.dtype == losses.z.dtype == torch.float32
    torch.testing.assert_close(losses.nll, exact.nll, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"time_conditioning": 16}])
def test_hidden_states_of_some_outputs_are_those_of_all(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(TINY, **changes))
    outputs = torch.tensor([3, LENGTH, BATCH * LENGTH - 1])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
        for mask in (CAUSAL, AttentionMask("bidirectional")):
            every = model.hidden(tokens(), mask).flatten(0, 1)
            torch.testing.assert_close(model.hidden(tokens(), mask, outputs), every[outputs], rtol=1e-5, atol=1e-5)


def test_weights_stored_by_inputs_are_the_same_weights() -> None:
    model, plain = build(), build()
    by_inputs(model)
    assert model.lm_head.weight.stride() == (1, TINY.vocab)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name])
    got, want = (m.logits(tokens(), CAUSAL) for m in (model, plain))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.attention: got 'magic'"):
        Transformer(replace(TINY, attention="magic"))
