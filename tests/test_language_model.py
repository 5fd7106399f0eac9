"""A trained model in hand, from Python and from the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dualm
from dualm import runs
from dualm.cli import main
from dualm.data.tokenizer import BOS, EOS, MASK, byte_tokenizer
from dualm.generation.samplers import SAMPLERS
from dualm.language_model import LanguageModel
from dualm.model import weights
from tests.conftest import Tiny, random_model
from tests.test_cli import one_line

TOKENIZER = byte_tokenizer()
CONTEXT = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of bytes that writes printable ASCII, and sometimes an end."""
    model = random_model(0, 0.5, layers=2, context=CONTEXT, vocab=TOKENIZER.vocab)
    with torch.no_grad():
        model.lm_head.weight[16 + 127 :] = 0
        model.lm_head.weight[16 + 32 : 16 + 127] *= 4
        model.lm_head.weight[EOS] *= 6
    folder = tmp_path_factory.mktemp("model") / "bytes"
    weights.save(folder, model.state_dict(), model.config, {"shifted": True, "tokenizer": TOKENIZER.hash})
    TOKENIZER.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return dualm.load(folder)


def test_a_pair_is_cut_where_its_text_is(model: LanguageModel) -> None:
    pair = model.encode_pair("the sea ", "was calm")
    assert pair.context.tolist() == [BOS, *TOKENIZER.encode(["the sea"])[0]]
    assert TOKENIZER.decode(pair.continuation) == " was calm"
    assert model.encode_pair("", "x").context.tolist() == [BOS]


def test_scores_add_up_over_a_text(model: LanguageModel) -> None:
    whole, first, second = model.score([("", "calm sea"), ("", "calm"), ("calm", " sea")])
    assert whole.log_likelihood == pytest.approx(first.log_likelihood + second.log_likelihood, abs=1e-4)
    assert (whole.tokens, first.tokens) == (8, 4)


@pytest.mark.parametrize("mode", ["ar", "prefix", "diffusion"])
def test_a_text_is_a_function_of_its_seed_and_number(model: LanguageModel, mode: str) -> None:
    prompts = ["the sea", "", "a much longer prompt", "x"]
    texts = model.generate(prompts, mode, max_tokens=12, seed=3)
    assert model.generate(prompts, mode, max_tokens=12, seed=3, batch=1) == texts
    assert model.generate(prompts[:2], mode, max_tokens=12, seed=3) == texts[:2]
    assert model.generate(prompts, mode, max_tokens=12, seed=4) != texts
    assert len({len(text) for text in model.generate([""] * 30, mode, max_tokens=20)}) > 1  # ends of their own
    assert model.generate([], mode) == []


def test_prefix_reading_differs_from_causal(model: LanguageModel) -> None:
    prompts = [f"prompt number {i}" for i in range(5)]
    causal, prefix = (model.generate(prompts, mode, temperature=0, max_tokens=10) for mode in ("ar", "prefix"))
    assert causal != prefix
    assert model.generate([""], "ar", seed=1) == model.generate([""], "prefix", seed=1)  # nothing to read both ways


@pytest.mark.parametrize("mode", ["ar", "diffusion"])
def test_texts_end_before_a_stop_string(model: LanguageModel, mode: str) -> None:
    (text,) = model.generate(["the sea"], mode, max_tokens=30, seed=2)
    stop = text[4]
    assert model.generate(["the sea"], mode, max_tokens=30, seed=2, stop=[stop, "never"]) == [text.split(stop)[0]]


@pytest.mark.parametrize("how", [{"block": 16}, {"stride": 16}])
def test_blocks_and_windows_outgrow_the_context(model: LanguageModel, how: dict[str, Any]) -> None:
    texts = model.generate(["sea"] * 12, "diffusion", max_tokens=150, sampler="threshold", tau=0.1, seed=1, **how)
    assert max(map(len, texts)) > CONTEXT


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_infilling_keeps_the_text_around(model: LanguageModel, sampler: str, guidance: float) -> None:
    filled = model.infill("The <mask:5> sat <mask>n the<mask:2>", sampler=sampler, guidance=guidance, top_k=40)
    head, *_ = filled.split(" sat ", 1)
    assert filled.startswith("The ")
    assert " sat " in filled
    tokens = TOKENIZER.encode([filled])[0]
    assert len(head) == 9 or len(tokens) != 22  # 22 bytes, unless a filled byte is no character of its own
    assert "<mask" not in filled


def test_infilled_tokens_stand_where_the_masks_stood(model: LanguageModel) -> None:
    tokens = model.encode_masked("a<mask:2>b<mask>")
    assert tokens.tolist() == [BOS, 16 + ord("a"), MASK, MASK, 16 + ord("b"), MASK, EOS]


def test_half_precision_is_close(model: LanguageModel) -> None:
    half = replace(model, precision="bf16")
    pairs = [("the sea", " was calm")]
    for mode in ("ar", "pll", "exact"):
        (full,), (rough,) = model.score(pairs, mode), half.score(pairs, mode)
        assert rough.log_likelihood == pytest.approx(full.log_likelihood, rel=0.02)
    assert len(half.generate(["the sea"], max_tokens=5)) == 1


def test_a_trained_run_is_read_from_its_newest_whole_checkpoint(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.train("objective.shifted=false", "objective.alpha=0")
    run = tiny.folder / "run"
    newest = runs.checkpoints(run)[-1]
    shutil.rmtree(newest / "deepspeed")  # readers need none of it
    loaded = dualm.load(run)
    assert (loaded.folder, loaded.shifted) == (newest, False)
    assert np.isfinite(loaded.score([("the old", " sea")], mode="pll")[0].log_likelihood)
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    assert dualm.load(run).folder == runs.checkpoints(run)[-2]
    assert "model.safetensors is truncated or altered; trying the checkpoint before it" in capsys.readouterr().err


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x" * 60], "prompt: got 61 tokens, expected at most 47 (the context is 48)"),
        (["x", "--max-tokens", "60"], "max_tokens: got 60 tokens, expected at most 46"),
        (["x", "--max-tokens", "0"], "max_tokens: got 0, expected at least 1"),
        (["--mode", "sideways"], "mode: got 'sideways', expected ar or prefix or diffusion"),
        (["--mode", "diffusion", "--sampler", "magic"], "sampler: got 'magic', expected ancestral"),
        (["--mode", "diffusion", "--steps", "0"], "steps: got 0, expected at least 1"),
        (["--mode", "diffusion", "--block", "48", "--max-tokens", "90"], "block: got 48 tokens, expected at most 47"),
        (["--mode", "diffusion", "--stride", "48", "--max-tokens", "90"], "stride: got 48 tokens, expected at most 47"),
        (["--mode", "diffusion", "--stride", "8", "--block", "8"], "stride: got 8 with block = 8"),
        (["--mode", "diffusion", "--noise-removal", "1"], "noise_removal: got 1.0, expected a mask rate in [0, 1)"),
        (["--infill", "no holes"], "infill: got 'no holes', expected <mask> or <mask:N> in it"),
        (["--infill", "<mask:0>"], "infill: got <mask:0>"),
        (["--infill", "<mask:99>"], "infill: got 101 tokens, expected at most 48"),
        (["--infill", "<mask>", "x"], "--infill: got prompts as well"),
        (["--temperature", "-1"], "temperature: got -1.0"),
        (["--trace", "t.html"], "--trace: got mode ar, expected --mode diffusion"),
        (["a", "b", "--mode", "diffusion", "--watch"], "--watch: got several texts"),
        (["--count", "0"], "--count: got 0"),
        (["--device", "abacus"], "device: got 'abacus'"),
        (["--precision", "int3"], "precision: got 'int3', expected fp32 or bf16"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(folder), *words]) == 2
    captured = capsys.readouterr()
    assert message in one_line(captured.err)
    assert captured.out == ""


def test_what_is_no_model_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(path: Path) -> str:
        assert main(["generate", str(path)]) == 2
        return one_line(capsys.readouterr().err)

    assert "no such folder, expected a run directory or an exported model" in said(tmp_path / "nothing")
    assert "holds no checkpoint and no config.json" in said(tmp_path)
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    assert "none of the 1 checkpoints is whole" in said(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["model"]["vocab"]["zz"] = len(definition["model"]["vocab"])
    (other / "tokenizer.json").write_text(json.dumps(definition))
    assert "tokenizer.json: is not the tokenizer that this model was trained with" in said(other)
    config = json.loads((other / "config.json").read_text())
    del config["dualm"]
    (other / "config.json").write_text(json.dumps(config))
    assert "got 273 ids, expected at most the model's 272" in said(other)
    (other / "tokenizer.json").unlink()
    assert "no such tokenizer" in said(other)


# ---------------------------------------------------------------- the command


def test_a_single_text_is_streamed(folder: Path, model: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folder), "--max-tokens", "12", "the sea"]) == 0
    assert capsys.readouterr().out == "the sea" + model.generate(["the sea"], max_tokens=12)[0] + "\n"


def test_texts_go_to_a_file(folder: Path, model: LanguageModel, tmp_path: Path) -> None:
    out = tmp_path / "new" / "texts.jsonl"
    words = ["a", "b", "--mode", "prefix", "--count", "2", "--out", str(out), "--max-tokens", "9"]
    assert main(["generate", str(folder), *words]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    prompts = ["a", "a", "b", "b"]
    expected = model.generate(prompts, "prefix", max_tokens=9)
    assert [row["text"] for row in rows] == [a + b for a, b in zip(prompts, expected, strict=True)]


@pytest.mark.parametrize(
    ("words", "options", "tokens"),
    [
        ([], {}, 12),
        (["--block", "4"], {"block": 4}, 12),
        (["--stride", "4", "--sampler", "ddpm_cache"], {"stride": 4, "sampler": "ddpm_cache"}, 60),
        (["--noise-removal", "0.5", "--steps", "3"], {"noise_removal": 0.5, "steps": 3}, 12),
    ],
)
def test_what_is_watched_is_what_is_written(
    folder: Path,
    model: LanguageModel,
    words: list[str],
    options: dict[str, Any],
    tokens: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = tmp_path / "trace.html"
    common = ["--mode", "diffusion", "--max-tokens", str(tokens), "--watch", "--trace", str(trace), "the sea"]
    assert main(["generate", str(folder), *words, *common]) == 0
    written = model.generate(["the sea"], "diffusion", max_tokens=tokens, **options)[0]
    assert capsys.readouterr().out == f"the sea{written}\n"
    assert f"{tokens} tokens" in trace.read_text()


def test_infilling_from_the_command_line(
    folder: Path, model: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(folder), "--infill", "The <mask:3> sat.", "--seed", "5"]) == 0
    assert capsys.readouterr().out == model.infill("The <mask:3> sat.", seed=5) + "\n"
