"""Answers: who is right, what is generated, and a model that learns pairs from end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import dualm
from dualm.cli import main
from dualm.config import DataConfig
from dualm.data.tokenizer import MASK
from dualm.errors import UserError
from dualm.evaluation import answers
from dualm.evaluation.answers import Answering, before, decode_again, pair_format, read_pairs, respond
from dualm.evaluation.matchers import MATCHERS
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling, before_end
from dualm.language_model import GENERATION_MODES, LanguageModel
from tests.conftest import Tiny
from tests.evaluation.tiny import save_model, write_lines, written
from tests.test_cli import one_line

CONTEXT = 24
PAIRS = [("what", " is it"), ("who", " am I"), ("how", " so"), ("where to", " go")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), context=CONTEXT)


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return dualm.load(folder, device="cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "asked.jsonl", [{"prompt": p, "response": r} for p, r in PAIRS])


# ---------------------------------------------------------------- who is right


@pytest.mark.parametrize(
    ("name", "response", "expected", "right"),
    [
        ("exact", " a b\n", "a b", True),
        ("exact", "a b.", "a b", False),
        ("begins", " Uriah Hawthorne, who", " Uriah Hawthorne.", True),
        ("begins", "the composer", "The Composer", True),
        ("begins", "It was Uriah Hawthorne", "Uriah Hawthorne", False),
        ("begins", 'of "Abyss."', ' of "Abyss.".', True),
        ("final_answer", "2 * 9 = 18 #### 18", "<<2*9=18>> #### 18", True),
        ("final_answer", "#### 18.0", "#### 18", True),
        ("final_answer", "#### 1,018", "#### 1 018", True),
        ("final_answer", "#### 1 #### 18", "#### 18", True),
        ("final_answer", "#### 180", "#### 18", False),
        ("final_answer", "18", "#### 18", False),
        ("final_answer", "#### ", "#### 18", False),
        ("final_answer", "#### half", "#### half", True),
    ],
)
def test_matchers(name: str, response: str, expected: str, right: bool) -> None:
    assert MATCHERS[name](response, expected) is right


def test_accuracy_and_its_error(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "respond", lambda *_: [" is it", "no", " so ", "go?"])
    result = answers.evaluate_answers(model, Path("f"), PAIRS, "ar", Answering())
    assert (result.accuracy, result.prompts, result.too_long) == (0.5, 4, 0)
    assert result.standard_error == pytest.approx(0.25)
    assert [answer.right for answer in result.answers] == [True, False, True, False]


# ---------------------------------------------------------------- what is generated


@pytest.mark.parametrize("mode", ["ar", "prefix"])
@pytest.mark.parametrize("batch", [1, 3])
def test_decoding_goes_as_far_as_the_context(model: LanguageModel, mode: str, batch: int) -> None:
    prompts = [model.encode(text) for text in ("ab", "xyz", "cd", "ef", "z" * 20, "gh", "y" * 23)]
    responses = respond(model, prompts, mode, Answering(batch=batch))
    for prompt, response in zip(prompts[:-1], responses[:-1], strict=True):
        (alone,) = model.generate(
            [model.tokenizer.decode(prompt)], mode, max_tokens=CONTEXT - len(prompt), temperature=0
        )
        assert response == alone
    assert responses[-1] == ""  # the prompt fills the context


def test_diffusion_fills_the_window_after_the_prompt(model: LanguageModel) -> None:
    prompts = [model.encode(text) for text in ("ab", "xyz", "cd")]
    how = Answering(denoising=Denoising(sampler="ancestral", steps=4), seed=3)
    responses = respond(model, prompts, "diffusion", how)
    for row, prompt in enumerate(prompts):
        window = np.concatenate([prompt, np.full(CONTEXT - len(prompt), MASK)])
        dice = [Dice.of(3, row, model.device)]
        *_, last = model.denoised(window[None], dice, Sampling(temperature=0), how.denoising)
        assert responses[row] == model.tokenizer.decode(before_end(last.tokens[0, len(prompt) :]))


def test_what_precedes_the_marker() -> None:
    assert before("1 + 1 = 2 #### 3 #### 4", "####") == "1 + 1 = 2 ####"
    assert before("1 + 1 = 2", "####") == "1 + 1 = 2 ####"


def test_two_stages_keep_the_reasoning_and_decode_the_rest_anew(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def stub(model: LanguageModel, prompts: list[np.ndarray], mode: str, how: Answering) -> list[str]:
        asked.append([model.tokenizer.decode(prompt) for prompt in prompts])
        return [" 7"] * len(prompts)

    monkeypatch.setattr(answers, "respond", stub)
    prompts = [model.encode(text) for text in ("why", "how", "what")]
    first = ["2+5 = 7 #### 9", "seven", "a long story that ends late #### 7"]
    assert decode_again(model, prompts, first, "####", Answering()) == ["2+5 = 7 #### 7", "seven #### 7", first[2]]
    assert asked == [["why2+5 = 7 ####", "howseven ####", "whata long story that ends late ####"]]


def test_two_stages_are_for_diffusion_alone(model: LanguageModel) -> None:
    how = Answering(two_stage="#", denoising=Denoising(steps=2))
    results = {mode: answers.evaluate_answers(model, Path("f"), PAIRS, mode, how) for mode in ("ar", "diffusion")}
    assert {mode: result.two_stage for mode, result in results.items()} == {"ar": None, "diffusion": "#"}
    once = answers.evaluate_answers(model, Path("f"), PAIRS, "ar", Answering())
    assert once.answers == results["ar"].answers


# ---------------------------------------------------------------- files


def test_pairs_are_read_as_the_run_read_its_own(tmp_path: Path) -> None:
    assert pair_format(tmp_path) == DataConfig(source="jsonl", format="pairs")
    (tmp_path / "recipe.yaml").write_text("data: {source: text, train: [x.txt], separator: '=>'}\ntrain: {steps: 1}\n")
    assert pair_format(tmp_path) == DataConfig(source="jsonl", format="pairs")  # that run was not trained on pairs
    with (tmp_path / "recipe.yaml").open("a") as recipe:
        recipe.write("model: {context: 8}\n")
    text = (tmp_path / "recipe.yaml").read_text().replace("source: text", "source: text, format: pairs")
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "[asked].txt").write_text("a=>b\nc=>d\n")
    assert read_pairs(tmp_path / "[asked].txt", pair_format(tmp_path)) == [("a", "b"), ("c", "d")]


def test_local_files_stand_in_for_a_hugging_face_data_set(file: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    data = DataConfig(source="huggingface", format="pairs", train=["hub/name"])
    assert read_pairs(file, data) == PAIRS
    columns = {"prompt": ["a"], "response": ["b"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert read_pairs(tmp_path / "a.parquet", data) == [("a", "b")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--answers", "absent.jsonl"], "--answers: absent.jsonl: no such file"),
        (
            ["--answers", "FILE", "--match", "roughly"],
            "--match: got 'roughly', expected exact or begins or final_answer",
        ),
        (["--answers", "FILE", "--modes", "pll"], "--modes: got 'pll', expected ar or prefix or diffusion"),
        (["--answers", "FILE", "--sampler", "luck"], "sampler: got 'luck'"),
        (["--answers", "FILE", "--show", "-1"], "--show: got -1, expected at least 0"),
        (
            ["--answers", "FILE", "--text", "FILE"],
            "got --text and --answers, expected one of --tasks, --text, --corpora, --answers",
        ),
        (["--answers", "BAD"], "bad.jsonl:1: no field 'response' (data.response_field), has prompt"),
        (["--answers", "NONE"], "none.jsonl: no prompt with a response, expected at least one"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(file.with_name("bad.jsonl"), [{"prompt": "a"}])
    write_lines(file.with_name("none.jsonl"), [{"prompt": "a", "response": " "}])
    paths = {"FILE": file, "BAD": file.with_name("bad.jsonl"), "NONE": file.with_name("none.jsonl")}
    assert main(["evaluate", str(folder), *(str(paths.get(word, word)) for word in options)]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_the_command_leaves_table_json_and_csv(
    folder: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = write_lines(tmp_path / "long.jsonl", [{"prompt": "x" * CONTEXT, "response": "y"}])
    command = ["evaluate", str(folder), "--answers", str(file), str(long), "--limit", "3", "--show", "1"]
    assert main([*command, "--modes", "ar,diffusion", "--steps", "3", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "long.jsonl: 1 prompts fill the context, which is wrong." in said
    assert "expected: is it" in said
    assert "am I" not in said  # only one is shown
    found = written(tmp_path / "out")
    assert [(part["mode"], part["prompts"], part["too_long"]) for part in found["results"]] == [
        ("ar", 3, 0),
        ("diffusion", 3, 0),
        ("ar", 1, 1),
        ("diffusion", 1, 1),
    ]
    assert [answer["expected"] for answer in found["results"][0]["answers"]] == [r for _, r in PAIRS[:3]]
    assert found["settings"]["answering"]["denoising"]["steps"] == 3
    (table,) = (tmp_path / "out").glob("asked+long-ar+diffusion-exact-limit3-*.csv")
    with table.open() as file:
        (first, *_) = csv.DictReader(file)
    assert (first["mode"], first["match"], first["prompts"]) == ("ar", "exact", "3")
    assert "answers" not in first


# ---------------------------------------------------------------- from pairs to answers


def test_a_model_learns_its_pairs_and_answers_them_in_every_mode(tiny: Tiny) -> None:
    text = tiny.folder / "pairs.txt"
    learned = [("sky", "blue"), ("grass", "green"), ("blood", "red"), ("coal", "black")]
    text.write_text("".join(f"{prompt}||{response}\n" for prompt, response in learned))
    done = tiny.train(
        *(
            f"data.{key}"
            for key in ("format=pairs", f"train=[{text}]", f"valid=[{text}]", f"dir={tiny.folder / 'made'}")
        ),
        *("model.context=16", "train.steps=200", "train.micro_batch=8", "data.repetitions=400", "checkpoint.every=0"),
    )
    assert "exceed" not in done.stderr
    model = dualm.load(tiny.folder / "run", device="cpu")
    data = pair_format(tiny.folder / "run")
    pairs = read_pairs(text, data)
    assert pairs == learned
    for mode in GENERATION_MODES:
        assert answers.evaluate_answers(model, text, pairs, mode, Answering()).accuracy == 1, mode


def test_a_run_says_which_pairs_it_leaves_out_and_refuses_to_have_none(tiny: Tiny) -> None:
    text = tiny.folder / "pairs.txt"
    text.write_text("a||b\n" * 8 + f"{'x' * 40}||{'y' * 40}\n")
    data = (
        f"data.{key}" for key in ("format=pairs", f"train=[{text}]", f"valid=[{text}]", f"dir={tiny.folder / 'made'}")
    )
    keys = [*data, "train.steps=1"]
    done = tiny.train(*keys)
    assert "1 of 9 pairs exceed the context of 32 and are left out" in done.stdout + done.stderr
    done = tiny.train(*keys, "model.context=2", run="none", check=False)
    assert "model.context: got 2, expected at least 3, which the shortest prompt and response need" in one_line(
        done.stderr
    )
    assert done.returncode == 2


def test_unknown_matcher_from_python() -> None:
    with pytest.raises(UserError, match="--match: got 'same'"):
        Answering(match="same")
