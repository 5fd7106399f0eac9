"""Offline benchmarks: files of every format, scores against the scorer itself, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import math
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualm
from dualm.cli import main
from dualm.errors import UserError
from dualm.evaluation.documents import BENCHMARKS, documents, normalised, read
from dualm.evaluation.records import ending
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring
from tests.evaluation.tiny import PAIRS, PASSAGES, QUESTIONS, save_model, write_data, write_lines, written
from tests.test_cli import one_line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return dualm.load(folder)


# ---------------------------------------------------------------- files and documents


def test_documents_of_every_benchmark(data: Path) -> None:
    found = {name: documents(name, data) for name in BENCHMARKS if BENCHMARKS[name].find(data)}
    assert list(found["blimp"]) == ["agreement", "islands"]
    assert found["blimp"]["islands"][0] == {"context": "", "choices": ["Who left?", "Who who left?"], "gold": 0}
    assert found["lambada"][""][1] == {"context": "Once upon a", "choices": ["time"], "gold": 0}
    assert found["arc_easy"][""][0]["context"] == "Question: What is wet?\nAnswer:"
    assert found["openbookqa"][""][0]["context"] == "Question: What is wet?"
    assert len(found["hellaswag"][""]) == 2
    assert found["hellaswag"][""][0]["choices"] == ["falls off.", "stands up.", "is a roof.", "sings."]
    assert found["hellaswag"][""][0]["gold"] == 1


def test_formats_of_one_data_set_agree(tmp_path: Path, data: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfA man sits. he\r\n1\r\nfalls.\r\nstands.\r\nsits.\r\nsings.\r\n")
    record = {"ctx": "A man sits. he", "label": "1", "endings": ["falls.", "stands.", "sits.", "sings."]}
    write_lines(tmp_path / "lines.jsonl", [record])
    assert read(tmp_path / "text.txt", ending) == read(tmp_path / "lines.jsonl", ending)
    write_lines(tmp_path / "lambada.jsonl", [{"text": "The cat sat on the mat"}, {"text": "Once upon a time"}])
    assert documents("lambada", tmp_path) == documents("lambada", data)


def test_hellaswag_loses_the_marks_of_wikihow() -> None:
    record = {
        "activity_label": "Fun",
        "ctx": "[header] How to [title] Run. [step] Go",
        "endings": ["[x] a"],
        "label": 0,
    }
    assert ending(record) == {"context": "Fun: How to. Run. Go", "choices": ["a"], "gold": 0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "q", "choices": ["a", "b"]}, "1: no field 'gold', has query, choices"),
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "1: got 2 as the right choice, expected 0 to 1"),
        (
            {"query": "q", "choices": ["a", ""], "gold": 0},
            "1: got ['a', ''], expected choices that are texts and not empty",
        ),
        ({"query": 3, "choices": ["a", "b"], "gold": 0}, "1: not a document of this benchmark"),
        ({"query": "q", "choices": None, "gold": 0}, "1: not a document of this benchmark"),
    ],
)
def test_a_record_that_is_no_document(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    write_lines(tmp_path / "piqa.jsonl", [record])
    with pytest.raises(UserError) as error:
        documents("piqa", tmp_path)
    assert f"{tmp_path / 'piqa.jsonl'}:{message}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("piqa.jsonl", b"", "piqa.jsonl: the file is empty, expected documents"),
        ("piqa.jsonl", b"\n{\n", "piqa.jsonl:2: not JSON"),
        ("piqa.jsonl", b"[1]\n", "piqa.jsonl:1: got a JSON list, expected an object"),
        ("piqa.jsonl", "é".encode("latin-1"), "piqa.jsonl: not UTF-8 at byte 0"),
        ("hellaswag.txt", b"a\n0\nb\nc\nd\n", "hellaswag.txt:1: got 5 lines, expected 6"),
        ("hellaswag.txt", b"a\nx\nb\nc\nd\ne\n", "hellaswag.txt:1: not a document of this benchmark"),
    ],
)
def test_a_damaged_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        documents(name.split(".")[0], tmp_path)
    assert message in str(error.value)


def test_two_files_that_could_be_meant(tmp_path: Path, data: Path) -> None:
    for name in ("one", "two"):
        write_data(tmp_path / name)
    for task in ("piqa", "blimp"):
        with pytest.raises(UserError, match="several match, expected one"):
            documents(task, tmp_path)
    assert documents("piqa", tmp_path / "one") == documents("piqa", data)
    assert documents("blimp", tmp_path / "one" / "blimp" / "data") == documents("blimp", data)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the whole data sets are not here")
def test_whole_data_sets() -> None:
    there = [name for name in BENCHMARKS if BENCHMARKS[name].find(SHARED)]
    sizes = {name: [len(found) for found in documents(name, SHARED).values()] for name in there}
    assert sizes["blimp"] == [1000] * 67
    assert {name: sum(size) for name, size in sizes.items() if name != "blimp"} == {
        "lambada": 5153,
        "hellaswag": 10042,
        "arc_easy": 2376,
        "arc_challenge": 1172,
        "piqa": 1838,
        "openbookqa": 500,
        "commonsense_qa": 1221,
        "boolq": 3270,
    }


def test_normalised() -> None:
    assert normalised(0.25, 0.25) == 0
    assert normalised(1.0, 0.25) == 100
    assert normalised(0.5, 0.5) == 0


# ---------------------------------------------------------------- scores

harness = pytest.importorskip("dualm.evaluation.harness", reason="needs lm-eval")


def result(model: LanguageModel, data: Path, name: str, scoring: Scoring | None = None, batch: int = 32) -> Any:
    from dualm.evaluation.lm_eval import DualLM

    return harness.evaluate_benchmark(DualLM(model, scoring or Scoring(), batch), name, harness.local_tasks(name, data))


def test_blimp_is_the_mean_of_its_files(model: LanguageModel, data: Path) -> None:
    found = result(model, data, "blimp", Scoring("pll"))
    means, errors = [], []
    for pairs in PAIRS.values():
        scores = [[model.score([("", text)], "pll")[0].log_likelihood for text in pair] for pair in pairs]
        right = np.array([good > bad for good, bad in scores], dtype=float)
        means.append(right.mean())
        errors.append(right.std(ddof=1) / math.sqrt(len(right)))
    assert found.score == pytest.approx(np.mean(means))
    assert found.standard_error == pytest.approx(math.hypot(*errors) / 2)
    assert [part.score for part in found.subtasks] == pytest.approx(means)
    assert (found.chance, found.documents, found.metric) == (0.5, 5, "acc")
    assert [part.task for part in found.subtasks] == ["blimp/agreement", "blimp/islands"]


def test_multiple_choice_by_length_and_chance_by_document(model: LanguageModel, data: Path) -> None:
    plain, by_length = result(model, data, "arc_easy"), result(model, data, "arc_challenge")
    right = {"acc": [], "acc_norm": []}
    for question in QUESTIONS:
        context = f"{question['query'].strip()}\nAnswer:"
        scores = model.score([(context, f" {choice}") for choice in question["choices"]])
        sums = np.array([score.log_likelihood for score in scores])
        lengths = np.array([len(choice) for choice in question["choices"]])
        right["acc"].append(sums.argmax() == question["gold"])
        right["acc_norm"].append((sums / lengths).argmax() == question["gold"])
    assert (plain.metric, plain.score) == ("acc", np.mean(right["acc"]))
    assert (by_length.metric, by_length.score) == ("acc_norm", np.mean(right["acc_norm"]))
    assert plain.chance == pytest.approx(np.mean([1 / 3, 1 / 2, 1 / 3, 1 / 2]))
    assert plain.normalised == pytest.approx(normalised(plain.score, plain.chance))


def test_lambada_wants_the_word_itself(model: LanguageModel, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = result(model, data, "lambada")
    pairs = [(passage["context"], f" {passage['continuation']}") for passage in PASSAGES]
    assert found.score == np.mean([score.greedy for score in model.score(pairs, greedy=True)])
    assert (found.chance, found.metric) == (0.0, "acc")
    assert found.normalised == 100 * found.score


@pytest.mark.parametrize("mode", ["mc", "pll"])
def test_the_same_number_whatever_the_batch_size(model: LanguageModel, data: Path, mode: str) -> None:
    one, many = (result(model, data, "blimp", Scoring(mode, draws=4), size) for size in (1, 8))
    assert [part.score for part in one.subtasks] == [part.score for part in many.subtasks]


def test_a_task_of_lm_evals_own(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(local_yaml("piqa", data / "foundry" / "piqa.jsonl"))
    monkeypatch.setattr(
        harness,
        "TaskManager",
        partial(harness.TaskManager, include_path=str(tmp_path / "tasks"), include_defaults=False),
    )
    command = ["evaluate", str(folder), "--modes", "ar", "--data", str(data), "--out", str(tmp_path / "out"), "--tasks"]
    assert main([*command, "lm_eval:piqa,piqa"]) == 0
    theirs, ours = written(tmp_path / "out")["results"]
    assert theirs | {"task": "", "seconds": 0} == ours | {"task": "", "seconds": 0}
    assert main([*command, "nonsense"]) == 2
    assert f"--tasks: got 'nonsense', expected {', '.join(BENCHMARKS)} or the name" in one_line(capsys.readouterr().err)


def local_yaml(name: str, path: Path) -> str:
    """A task in lm-eval's own format over one of our files."""
    return f"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query.strip()}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


# ---------------------------------------------------------------- the command


def no_network(*_: Any) -> None:
    raise AssertionError("the network was asked")


def test_evaluate_writes_what_it_shows(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    command = [
        "evaluate",
        str(folder),
        "--tasks",
        "blimp,piqa",
        "--modes",
        "ar,mc",
        "--data",
        str(data),
        "--draws",
        "4",
    ]
    assert main([*command, "--limit", "2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "blimp" in said.out
    assert "norm.: 0 at chance" in said.out
    assert said.err.strip() == ""
    found = written(tmp_path / "out")
    assert [(row["task"], row["mode"]) for row in found["results"]] == [
        *(("blimp", "ar"), ("blimp", "mc")),
        *(("piqa", "ar"), ("piqa", "mc")),
    ]
    assert [row["scoring"]["mode"] for row in found["results"]] == [row["mode"] for row in found["results"]]
    assert {row["scoring"]["draws"] for row in found["results"]} == {4}
    assert found["model"] == str(folder)
    blimp = found["results"][0]
    assert blimp["documents"] == 4
    assert blimp["seconds"] > 0
    assert [part["documents"] for part in blimp["subtasks"]] == [2, 2]
    (table,) = (tmp_path / "out").glob("blimp+piqa-ar+mc-limit2-*.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows[:3]] == ["blimp", "blimp/agreement", "blimp/islands"]
    assert float(rows[0]["score"]) == blimp["score"]
    assert float(rows[0]["normalised"]) == pytest.approx(blimp["normalised"])
    assert rows[1]["seconds"] == ""


def test_results_go_into_the_run(data: Path, tmp_path: Path) -> None:
    run = save_model(tmp_path / "run")
    (run / "recipe.yaml").touch()
    assert main(["evaluate", str(run), "--tasks", "piqa", "--modes", "ar", "--data", str(data)]) == 0
    assert {path.suffix for path in (run / "evaluation").glob("piqa-ar-*")} == {".json", ".csv"}
    assert len(list((run / "evaluation").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "piqa", "--modes", "ar,plk"], "mode: got 'plk', expected ar or prefix or mc or chain"),
        (["--tasks", "piqa"], "--data: not given, expected the folder with the files of piqa"),
        (["--tasks", "piqa", "--data", "nowhere"], "--data: nowhere: no such folder"),
        (["--tasks", "piqa", "--data", "{empty}"], "no file of this name at any depth, expected piqa*.jsonl"),
        (["--tasks", "blimp", "--data", "{empty}"], "expected *.jsonl in a folder 'blimp'"),
        (["--tasks", "piqa", "--modes", "ar", "--guidance", "1"], "guidance: got 1.0 in mode ar, expected 0"),
        (["--tasks", "piqa", "--draws", "0"], "draws: got 0, expected at least 1"),
        (["--tasks", "piqa", "--limit", "0"], "--limit: got 0, expected at least 1"),
        (["--tasks", "piqa", "--batch", "0"], "--batch: got 0, expected at least 1"),
        (["--tasks", "piqa", "--data", "{data}", "--precision", "fp8"], "precision: got 'fp8', expected fp32 or bf16"),
        (["--tasks", "piqa", "--data", "{data}", "--device", "abacus"], "device: got 'abacus'"),
        (
            ["--tasks", "piqa", "--data", "{data}", "--out", "{data}/hellaswag_val_full.txt"],
            "expected a folder for the",
        ),
        ([], "dualm evaluate: got none, expected one of --tasks, --text, --corpora, --answers, --suite"),
        (
            ["--tasks", "piqa", "--text", "x.txt"],
            "got --tasks and --text, expected one of --tasks, --text, --corpora, --answers, --suite",
        ),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(empty=tmp_path, data=data) for word in arguments]
    assert main(["evaluate", str(folder), *filled]) == 2
    assert message in one_line(capsys.readouterr().err)


def no_run(folder: Path) -> Path:
    return folder / "nowhere"


def no_checkpoint(folder: Path) -> Path:
    (folder / "recipe.yaml").touch()
    return folder


def altered_tokenizer(folder: Path) -> Path:
    definition = json.loads((save_model(folder) / "tokenizer.json").read_text())
    definition["model"]["vocab"] |= {"Ā": definition["model"]["vocab"]["ā"], "ā": definition["model"]["vocab"]["Ā"]}
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_run, "no such folder, expected a run directory or an exported model"),
        (no_checkpoint, "holds no checkpoint and no config.json"),
        (altered_tokenizer, "tokenizer.json: is not the tokenizer that this model was trained with"),
    ],
)
def test_no_model_is_one_line(
    tmp_path: Path, spoil: Any, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(spoil(tmp_path)), "--tasks", "piqa", "--data", str(data)]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "evaluation").exists()


def test_without_lm_eval_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("lm_eval", "dualm.evaluation.harness"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate", str(folder), "--tasks", "piqa", "--data", "."]) == 2
    assert "lm_eval is not installed, expected after: pip install -r" in one_line(capsys.readouterr().err)
