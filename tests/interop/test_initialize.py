"""`model.init_from`: training goes on from other people's checkpoints, and from ours."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import dualm
from dualm import config
from dualm.cli import main
from dualm.config import ModelConfig
from dualm.data.shards import Shards
from dualm.data.tokenizer import BOS, EOS, MASK, RESERVED, byte_tokenizer, from_file
from dualm.errors import UserError
from dualm.interop.export import export
from dualm.interop.initialize import check_sizes, check_start, grow, initial_weights
from dualm.model import AttentionMask, Transformer, weights
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import open_passes
from tests.conftest import Tiny

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}
OURS = ModelConfig(
    layers=2, hidden=32, heads=4, kv_heads=2, ffn=48, context=32, rope_theta=10_000.0, norm_eps=1e-5, head_dim=8
)


def foreign_tokenizer() -> tokenizers.Tokenizer:
    """Byte-level BPE as many have it: special tokens of its own, `<s>` among them, put before a text."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<unk>", "<s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the old sea cat saw a small red boat and sang to it all night long " * 9], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def foreign(folder: Path, kind: str = "Llama", tied: bool = False, **options: Any) -> Path:
    """A checkpoint in bf16 and several files, saved by transformers."""
    sizes = SIZES | {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": [2, 0], "tie_word_embeddings": tied}
    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(**sizes | {"head_dim": 8} | options)
    made = getattr(transformers, f"{kind}ForCausalLM")(settings).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(float(parameter.ndim == 1), 0.3)
    made.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    foreign_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def test_rows_are_grown() -> None:
    old = {name: torch.randn(5, 3) for name in (weights.EMBEDDING, weights.HEAD)} | {"model.norm.weight": torch.ones(3)}
    before = {name: tensor.clone() for name, tensor in old.items()}
    new = grow(old, vocab=10, front=4, copies={1: 0, 2: 3})
    for name in (weights.EMBEDDING, weights.HEAD):
        torch.testing.assert_close(new[name][4:9], old[name], rtol=0, atol=0)
        torch.testing.assert_close(new[name][[1, 2]], old[name][[0, 3]], rtol=0, atol=0)
        torch.testing.assert_close(new[name][[0, 3, 9]], old[name].mean(0).expand(3, 3))
    torch.testing.assert_close(old, before, rtol=0, atol=0)
    torch.testing.assert_close(grow(old, vocab=5), old, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "tied", "head_dim"),
    [("Llama", False, 8), ("Llama", True, 8), ("Llama", False, 12), ("Qwen3", False, 8), ("Qwen3", True, 16)],
)
@torch.no_grad()
def test_a_foreign_checkpoint_goes_on_as_it_was(kind: str, tied: bool, head_dim: int, tmp_path: Path) -> None:
    folder = foreign(tmp_path, kind, tied, head_dim=head_dim)
    start = replace(OURS, init_from=str(folder), head_dim=head_dim, qk_norm=kind == "Qwen3", vocab=320)
    model = Transformer(start)
    model.load_state_dict(initial_weights(start))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    text = "the old sea <|end|> café"
    ids = from_file(folder).encode([text])[0]
    ours = model.logits(torch.tensor([[BOS, *ids]]), AttentionMask("causal"))[0]
    expected = theirs(torch.tensor([[1, *(ids - RESERVED)]])).logits[0]
    torch.testing.assert_close(ours[:, RESERVED : RESERVED + 300], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours[:, [BOS, EOS]], expected[:, [1, 2]], rtol=0, atol=1e-4)
    mean = expected.mean(-1)
    for new in (MASK, 319):
        torch.testing.assert_close(ours[:, new], mean, rtol=0, atol=1e-4)

    added = ours.logsumexp(-1) - expected.logsumexp(-1)
    bound = torch.log1p(20 / 300 + expected.softmax(-1)[:, [1, 2]].sum(-1))
    assert (added <= bound + 1e-5).all()


def test_a_checkpoint_in_our_layout_is_copied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Transformer(replace(OURS, vocab=272))
    weights.save(tmp_path, made.state_dict(), made.config)
    byte_tokenizer().save(tmp_path / "tokenizer.json")
    same = initial_weights(replace(OURS, vocab=272, init_from=str(tmp_path)))
    torch.testing.assert_close(same, dict(made.state_dict()), rtol=0, atol=0)
    wider = initial_weights(replace(OURS, vocab=280, init_from=str(tmp_path)))[weights.EMBEDDING]
    torch.testing.assert_close(wider[:272], same[weights.EMBEDDING], rtol=0, atol=0)
    check_start(replace(OURS, vocab=272, init_from=str(tmp_path)), byte_tokenizer())
    check_sizes(OURS)  # nothing to check


def test_reserved_rows_in_another_order_change_places(tmp_path: Path) -> None:
    names = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", *(f"<special_{i}>" for i in range(11))]
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: id for id, name in enumerate([*names, "sea", "old"])}, unk_token="<unk>")
    )
    words.add_special_tokens(names)
    words.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    made = Transformer(replace(OURS, vocab=18))
    weights.save(tmp_path, made.state_dict(), made.config)
    start = replace(OURS, vocab=20, init_from=str(tmp_path))
    check_start(start, from_file(tmp_path))
    state = initial_weights(start)
    for name in (weights.EMBEDDING, weights.HEAD):
        old = made.state_dict()[name]
        torch.testing.assert_close(state[name][:18], old[[3, 1, 2, 4, 0, *range(5, 18)]], rtol=0, atol=0)
        torch.testing.assert_close(state[name][19], old.mean(0))
    assert state["model.norm.weight"].shape == (OURS.hidden,)


@pytest.mark.parametrize(("key", "value", "plain"), [("time_conditioning", 8, 0), ("head", "mlp", "linear")])
def test_what_is_no_llama_is_refused(tmp_path: Path, key: str, value: Any, plain: Any) -> None:
    other = replace(OURS, vocab=272, **{key: value})
    for folder, made in (("other", other), ("plain", replace(other, **{key: plain}))):
        weights.save(tmp_path / folder, Transformer(made).state_dict(), made)
        byte_tokenizer().save(tmp_path / folder / "tokenizer.json")
    only = f"got {value}, expected {plain}: training starts from plain Llamas only$"
    with pytest.raises(UserError, match=rf"^model\.{key}: {only}"):
        check_sizes(replace(other, init_from=str(tmp_path / "plain")))
    with pytest.raises(UserError, match=rf"^model\.init_from: .*/other: {key}: {only}"):
        check_sizes(replace(other, **{key: plain}, init_from=str(tmp_path / "other")))


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def parent(tiny_in: Callable[[Path], Tiny], tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Path]:
    """A trained run, exported."""
    tiny = tiny_in(tmp_path_factory.mktemp("parent"))
    tiny.train("checkpoint.every=0")
    return tiny, export(tiny.folder / "run", tiny.folder / "exported")


@torch.no_grad()
def first_loss(folder: Path, recipe_file: Path, *overrides: str) -> float:
    """The loss that the model in `folder` itself has on the first global batch of a recipe, in nats per token."""
    recipe = config.load(recipe_file, overrides)
    shards = Shards.open(Path(str(recipe.data.dir)), verify=False)
    model = dualm.load(folder, device="cpu").model
    batches = TrainingBatches.of(recipe, open_passes(recipe, shards)).step(0)
    return float(torch.cat([model(*batch.arguments).nll for _, batch in batches]).mean())


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_training_begins_where_the_checkpoint_ended(
    parent: tuple[Tiny, Path], tiny: Tiny, stage: int, alpha: float
) -> None:
    _, folder = parent
    recipe = [f"objective.alpha={alpha}", "train.steps=2", "objective.prefix_fraction=0"]
    tiny.train(*recipe, f"train.zero_stage={stage}", f"model.init_from={folder}", world=2 if stage else 1)
    losses = tiny.losses()
    assert losses[1] == pytest.approx(first_loss(folder, tiny.recipe, *recipe), abs=1e-5)
    fresh = math.log(272)
    assert losses[1] < fresh - 1
    assert losses[2] != losses[1]


def test_a_resumed_run_does_not_need_the_checkpoint_it_began_with(parent: tuple[Tiny, Path], tiny: Tiny) -> None:
    folder = tiny.folder / "moved"
    shutil.copytree(parent[1], folder)
    recipe = ["checkpoint.every=1", "checkpoint.keep=9", f"model.init_from={folder}"]
    tiny.train(*recipe)
    whole = tiny.losses()
    for step in range(3, 7):  # as if it had been killed after step 2
        shutil.rmtree(tiny.folder / "run" / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(folder)
    assert "resuming from" in tiny.train(*recipe).stderr
    assert len(tiny.rows()) > len(whole) + 1
    assert tiny.losses() == whole


def test_a_foreign_checkpoint_is_trained_on(tiny: Tiny) -> None:
    folder = foreign(tiny.folder / "foreign", "Qwen3", tied=True, head_dim=16)
    sizes = ["heads=4", "kv_heads=2", "head_dim=16", "rope_theta=10000", "norm_eps=1e-5", "qk_norm=true", "vocab=316"]
    overrides = [f"data.tokenizer={folder}", f"data.dir={tiny.folder / 'prepared'}", f"model.init_from={folder}"]
    tiny.train(*overrides, *(f"model.{size}" for size in sizes), "train.steps=2", "train.zero_stage=1")
    assert all(map(math.isfinite, tiny.losses().values()))
    again = export(tiny.folder / "run", tiny.folder / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(again)
    text = "the old <s> sea <|end|> \u00e9 <foreign <s>>"
    assert tokenizer(text).input_ids == [BOS, *from_file(folder).encode([text])[0]]
    assert len(transformers.AutoModelForCausalLM.from_pretrained(again).lm_head.weight) == 316


# ---------------------------------------------------------------- mistakes


def plan(tiny: Tiny, *overrides: str) -> int:
    return main(["plan", str(tiny.recipe), *overrides])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dualm: ")]
    return line


def test_other_sizes_are_told_and_can_be_pasted(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    folder = foreign(tiny.folder / "foreign", "Qwen3", head_dim=16)
    assert plan(tiny, f"model.init_from={folder}") == 2
    line = said(capsys)
    assert f"model.init_from: {folder} has other sizes than the recipe, expected " in line
    settings = line.split("expected ")[1].split()
    assert "model.layers=2" in settings
    assert "model.vocab=316" in settings
    assert plan(tiny, f"model.init_from={folder}", *settings) == 0
    capsys.readouterr()
    done = tiny.train(f"model.init_from={folder}", *settings, check=False)  # but the tokenizer is another
    assert done.returncode == 2
    assert f"data.tokenizer: is not that of model.init_from, expected data.tokenizer={folder}" in done.stderr
    assert not (tiny.folder / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "config.json: model_type: got 'gpt2', expected llama or qwen3"),
        ({"attention_bias": True}, "config.json: attention_bias: got True, expected False"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "config.json: rope_type: got "),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn"}}, "config.json: rope_type: got "),
    ],
)
def test_another_architecture_is_refused(
    change: dict[str, Any], message: str, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign(tiny.folder / "foreign")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    assert plan(tiny, f"model.init_from={folder}") == 2
    assert message in said(capsys)


def test_what_is_no_checkpoint_is_refused(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tiny, f"model.init_from={tiny.folder / 'nowhere'}") == 2
    assert "nowhere holds no config.json, expected a folder with a checkpoint" in said(capsys)
    folder = foreign(tiny.folder / "foreign")
    (folder / "tokenizer.json").write_text("{}")
    assert plan(tiny, f"model.init_from={folder}") == 2
    assert "tokenizer.json: not a tokenizer.json" in said(capsys)
    (folder / "tokenizer.json").unlink()
    assert plan(tiny, f"model.init_from={folder}") == 2
    assert "holds no tokenizer.json" in said(capsys)


def test_damaged_weights_are_refused_before_a_run_begins(parent: tuple[Tiny, Path], tiny: Tiny) -> None:
    folder = tiny.folder / "damaged"
    shutil.copytree(parent[1], folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    done = tiny.train(f"model.init_from={folder}", check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dualm: ")]
    assert "model.safetensors: not readable as safetensors" in line
    assert not (tiny.folder / "run").exists()
    with pytest.raises(UserError, match="not readable"):
        initial_weights(replace(dualm.load(parent[1], device="cpu").model.config, init_from=str(folder)))
