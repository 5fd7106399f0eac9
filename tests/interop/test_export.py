"""An exported folder, read by transformers without and with our class, and by dualm again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dualm
from dualm.cli import main
from dualm.config import ModelConfig
from dualm.data.tokenizer import BOS, EOS, MASK, PAD, RESERVED, UNK, Tokenizer, byte_tokenizer, train_bpe, train_chars
from dualm.errors import UserError
from dualm.interop.export import export
from dualm.model import AttentionMask, Transformer, weights
from tests.conftest import Tiny

transformers = pytest.importorskip("transformers")

LLAMA = ModelConfig(layers=2, hidden=32, heads=4, kv_heads=2, ffn=48, context=48, vocab=280)
MODELS = {
    "llama": LLAMA,
    "llama, wide heads": replace(LLAMA, head_dim=12),
    "qwen3": replace(LLAMA, qk_norm=True, kv_heads=None, rope_theta=1e4, norm_eps=1e-5),
    "qwen3, wide heads": replace(LLAMA, qk_norm=True, head_dim=16),
}
NASTY = [
    "The old sea",
    "",
    " ",
    "  two  spaces\n\n\ttab\r\n",
    "<s>a</s> <mask> <pad><unk><reserved-7>",
    "cafe\u0301 Å ﬁ \uff26\uff35 İstanbul",
    "日本語 \U0001f600\u200d\U0001f468 \ufeff\x00\u2028",
    "don 't , you . ?",
    "x" * 400,
]


def model(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(float(parameter.ndim == 1), 0.3)
    return made


def checkpoint(folder: Path, made: Transformer, tokenizer: Tokenizer, shifted: bool = True) -> Path:
    weights.save(folder, made.state_dict(), made.config, {"shifted": shifted, "tokenizer": tokenizer.hash})
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Transformer, Path]:
    made = model(MODELS[request.param])
    return made, export(checkpoint(tmp_path / "checkpoint", made, byte_tokenizer()), tmp_path / "new" / "exported")


@torch.no_grad()
def ours(made: Transformer, inputs: Tensor, kind: str) -> Tensor:
    return made.logits(inputs, AttentionMask(kind))  # pyright: ignore[reportArgumentType]


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@torch.no_grad()
def test_transformers_reads_it_without_our_code(exported: tuple[Transformer, Path]) -> None:
    made, folder = exported
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == weights.ARCHITECTURES[made.config.qk_norm][0]
    assert not any(info.values())
    inputs = torch.randint(16, made.config.vocab, (3, 48))
    assert_close(theirs(inputs).logits, ours(made, inputs, "causal"))


@torch.no_grad()
def test_our_class_reads_both_ways(exported: tuple[Transformer, Path]) -> None:
    made, folder = exported
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert not any(info.values())
    inputs = torch.randint(3, made.config.vocab, (3, 48))
    assert_close(theirs(inputs).logits, ours(made, inputs, "bidirectional"))

    seen = torch.ones_like(inputs)
    seen[0, 40:], seen[1, :8] = 0, 0
    logits = theirs(inputs, attention_mask=seen).logits
    assert_close(logits[0, :40], ours(made, inputs[:1, :40], "bidirectional")[0])
    assert_close(logits[1, 8:], ours(made, inputs[1:2, 8:], "bidirectional")[0])
    assert_close(logits[2], ours(made, inputs[2:], "bidirectional")[0])
    eager = transformers.AutoModelForMaskedLM.from_pretrained(
        folder, trust_remote_code=True, attn_implementation="eager"
    )
    assert_close(eager(inputs, attention_mask=seen).logits[seen == 1], logits[seen == 1])


def test_dualm_reads_it_again(exported: tuple[Transformer, Path], tmp_path: Path) -> None:
    made, folder = exported
    again = dualm.load(folder, device="cpu")
    torch.testing.assert_close(dict(again.model.state_dict()), dict(made.state_dict()), rtol=0, atol=0)
    twice = export(folder, tmp_path / "twice")
    assert {path.name for path in twice.iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (twice / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("shifted", [True, False])
def test_the_configuration_says_which_token_an_output_predicts(shifted: bool, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    folder = export(checkpoint(tmp_path / "c", model(LLAMA), tokenizer, shifted), tmp_path / "e")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.dualm == {"shifted": shifted, "tokenizer": tokenizer.hash}
    assert dualm.load(folder, device="cpu").shifted is shifted
    assert ("position - 1]" in (folder / "README.md").read_text()) is shifted


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "bpe": lambda: train_bpe(["the old sea sang to the small red boat " * 9], 280),
    "chars": lambda: train_chars(["the old sea"]),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tokenizer_gives_our_ids(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    theirs = transformers.AutoTokenizer.from_pretrained(
        export(checkpoint(tmp_path / "c", model(LLAMA), tokenizer), tmp_path / "e")
    )
    for text, ids in zip(NASTY, tokenizer.encode(NASTY), strict=True):
        assert theirs(text).input_ids == [BOS, *ids]
        assert theirs(text, add_special_tokens=False).input_ids == ids.tolist()
        assert theirs.decode([BOS, *ids], skip_special_tokens=True) == tokenizer.decode(ids)
    assert len(theirs) == tokenizer.vocab
    specials = (
        theirs.pad_token_id,
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.mask_token_id,
        theirs.unk_token_id,
    )
    assert specials == (PAD, BOS, EOS, MASK, UNK)
    assert theirs("a<mask>", split_special_tokens=False).input_ids[-1] == MASK
    padded = theirs(["a", "the"], padding=True, return_tensors="pt")
    assert set(padded) == {"input_ids", "attention_mask"}
    assert padded.attention_mask[0, 0] == 0
    assert padded.input_ids[0, 0] == PAD


def test_generation_stops_at_the_end_and_makes_no_reserved_token(tmp_path: Path) -> None:
    made = model(LLAMA)
    with torch.no_grad():
        made.lm_head.weight[:RESERVED] *= 3  # a model that likes them
    folder = export(checkpoint(tmp_path / "c", made, byte_tokenizer()), tmp_path / "e")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["the sea", "a"] * 8, padding=True, return_tensors="pt")
    torch.manual_seed(0)
    made_tokens = theirs.generate(**inputs, max_new_tokens=24, do_sample=True)[:, inputs.input_ids.shape[1] :]
    ended = 0
    for row in made_tokens.tolist():
        stop = row.index(EOS) if EOS in row else len(row)
        ended += EOS in row
        assert all(token in (UNK, *range(RESERVED, made.config.vocab)) for token in row[:stop])
        assert all(token == PAD for token in row[stop + 1 :])
    assert ended


# ---------------------------------------------------------------- command, card, mistakes


@pytest.fixture(scope="module")
def run(tiny_in, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    tiny: Tiny = tiny_in(tmp_path_factory.mktemp("run"))
    tiny.train()
    return tiny.folder / "run"


def test_a_run_is_exported_with_its_history(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| AR NLL, causal | {last['valid/ar_nll']:.3f} | {last['valid/ar_nll_se']:.3f} |" in card
    for text in ("| unique tokens | 1,536 |", "| repetitions R | 1 |", "alpha: 0.5", "deepspeed", "# mine"):
        assert text in card
    earlier = export(run / "checkpoints" / "step-000004", tmp_path / "earlier")
    assert "## Validation" not in (earlier / "README.md").read_text()  # its only one came after step 4


def test_the_card_of_a_bare_folder_says_how_to_use_it(tmp_path: Path) -> None:
    folder = export(checkpoint(tmp_path / "c", model(LLAMA), byte_tokenizer()), tmp_path / "e")
    card = (folder / "README.md").read_text()
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert headings == ["## Use"]


def test_the_card_s_examples_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(run, tmp_path / "mine")
    blocks = (folder / "README.md").read_text().split("```python\n")[1:]
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block.split("```")[0], {})


def not_a_run(folder: Path) -> list[str]:
    return [str(folder), "--to", str(folder / "e")]


def no_such_run(folder: Path) -> list[str]:
    return [str(folder / "nowhere"), "--to", str(folder / "e")]


def taken(folder: Path) -> list[str]:
    (folder / "e").mkdir()
    (folder / "e" / "precious").touch()
    return [str(checkpoint(folder / "c", model(LLAMA), byte_tokenizer())), "--to", str(folder / "e")]


def a_file(folder: Path) -> list[str]:
    (folder / "e").touch()
    return [str(checkpoint(folder / "c", model(LLAMA), byte_tokenizer())), "--to", str(folder / "e" / "below")]


def another_tokenizer(folder: Path) -> list[str]:
    checkpoint(folder / "c", model(LLAMA), byte_tokenizer())
    train_chars(["abc"]).save(folder / "c" / "tokenizer.json")
    return [str(folder / "c"), "--to", str(folder / "e")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_a_run, "holds no checkpoint"),
        (no_such_run, "no such folder"),
        (taken, "--to: "),
        (a_file, "--to: cannot write"),
        (another_tokenizer, "is not the tokenizer that this model was trained with"),
    ],
)
def test_mistakes_are_one_line(make, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    arguments = make(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dualm: ")
    assert message in line
    assert set(tmp_path.rglob("*")) == before  # nothing is left behind


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "c", model(LLAMA), byte_tokenizer())

    def fail(path: Path, *_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("dualm.interop.export.shutil.copyfile", fail)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        export(folder, tmp_path / "e")
    assert {path.name for path in tmp_path.iterdir()} == {"c"}
    monkeypatch.undo()
    (tmp_path / "e").mkdir()
    assert export(folder, tmp_path / "e") == tmp_path / "e"  # an empty folder may be filled


@pytest.mark.parametrize(("key", "value", "plain"), [("time_conditioning", 8, 0), ("head", "mlp", "linear")])
def test_what_is_no_llama_is_read_but_not_exported(tmp_path: Path, key: str, value: Any, plain: Any) -> None:
    made = model(replace(LLAMA, **{key: value}))
    folder = checkpoint(tmp_path / "checkpoint", made, byte_tokenizer())
    loaded = dualm.load(folder, device="cpu")
    inputs = torch.full((1, 4), MASK)
    read, written = (ours(one, inputs, "bidirectional") for one in (loaded.model, made))
    torch.testing.assert_close(read, written, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        UserError, match=rf"checkpoint: model\.{key}: got {value}, expected {plain}: transformers has no"
    ):
        export(folder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
