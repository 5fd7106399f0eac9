"""Records of benchmarks in the layouts people have: prompts are those that lm-eval makes of the same record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dualm.errors import UserError
from dualm.evaluation.documents import BENCHMARKS, documents
from tests.evaluation.tiny import write_lines

LETTERS = {"label": ["A", "B", "C", "D", "E"], "text": ["bank", "library", "mall", "moon", "pond"]}
HUGGING_FACE: dict[str, tuple[str, list[dict[str, Any]]]] = {  # benchmark: lm-eval's file, records as exported
    "arc_easy": (
        "arc/arc_easy.yaml",
        [
            {"question": "What is wet?", "choices": {"text": ["rain", "sand"], "label": ["A", "B"]}, "answerKey": "A"},
            {"question": "And dry? ", "choices": {"text": ["sea", "sand"], "label": ["1", "2"]}, "answerKey": "2"},
        ],
    ),
    "arc_challenge": (
        "arc/arc_challenge.yaml",
        [{"question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "C"}],
    ),
    "openbookqa": (
        "openbookqa/openbookqa.yaml",
        [
            {
                "question_stem": "The sun is",
                "choices": {"text": ["a star", "wet"], "label": ["A", "B"]},
                "answerKey": "A",
            }
        ],
    ),
    "piqa": ("piqa/piqa.yaml", [{"goal": "open a jar", "sol1": "pull it", "sol2": "turn the lid", "label": 1}]),
    "commonsense_qa": (
        "commonsense_qa/default.yaml",
        [{"question": " Where are books? ", "question_concept": "book", "choices": LETTERS, "answerKey": "B"}],
    ),
    "mmlu": (
        "mmlu/default/mmlu_abstract_algebra.yaml",
        [
            {
                "question": "Is 2 prime?\n",
                "subject": "abstract_algebra",
                "choices": ["no", "yes", "so", "if"],
                "answer": 1,
            }
        ],
    ),
    "social_iqa": (
        "siqa/siqa.yaml",
        [{"context": "A. ran.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"}],
    ),
    "boolq": ("super_glue/boolq/default.yaml", [{"passage": "It is.", "question": "is it", "idx": 0, "label": 1}]),
    "race": (
        "race/race.yaml",
        [
            {
                "article": "Tom ran.",
                "problems": str(
                    [
                        {"question": "Who ran?", "answer": "B", "options": ["Ann", "Tom", "Eve", "Jo"]},
                        {"question": "Tom  _  .", "answer": "A", "options": ["ran", "sat", "ate", "hid"]},
                        {"question": "Why did he?", "answer": "D", "options": ["a", "b", "c", "d"]},
                    ]
                ),
            }
        ],
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        [
            {
                "activity_label": "Fun",
                "ctx_a": "[header] How to play [title] Run.",
                "ctx_b": "the Man",
                "ctx": "[header] How to play [title] Run. the Man",
                "endings": ["sits [step] down.", "runs.", "eats  it.", "is."],
                "label": "2",
            }
        ],
    ),
    "lambada": ("lambada/lambada_openai.yaml", [{"text": "The cat sat on the mat"}]),
}


def named(folder: Path, name: str) -> Path:
    return folder / BENCHMARKS[name].names[-1].replace("*", "").replace(".txt", ".jsonl")


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_prompts_are_those_of_lm_eval(name: str, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    file, records = HUGGING_FACE[name]
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / file)
    kept = {key: value for key, value in config.items() if key not in ("dataset_path", "dataset_name", "tag", "group")}
    splits = {key: "test" if key == "test_split" else None for key in config if key.endswith("_split")}
    made = {"custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(records)}, "test_split": "test"}
    task = ConfigurableTask(config={**kept, **splits, **made, "fewshot_config": None, "num_fewshot": 0})
    task.build_all_requests()

    write_lines(named(tmp_path, name), records)
    found = documents(name, tmp_path)[""]
    for number, document in enumerate(found):
        asked = [one.args for one in task.instances if one.doc_id == number][: len(document["choices"])]
        assert [(document["context"], f" {choice}") for choice in document["choices"]] == asked
        if len(document["choices"]) > 1:
            target = task.doc_to_target(list(task.eval_docs)[number])
            assert document["gold"] == (ord(target) - ord("A") if isinstance(target, str) else target)


def test_queries_of_llm_foundry_are_prompts_already(tmp_path: Path) -> None:
    ready = {"query": "Question: Where?\nChoices:\nA. here\nB. there\nAnswer:", "choices": ["A", "B"], "gold": 1}
    bare = {"query": "Context: she ran. Question: why?\n", "choices": ["x", "y", "z"], "gold": 2}
    write_lines(tmp_path / "commonsense_qa.jsonl", [ready])
    write_lines(tmp_path / "siqa.jsonl", [bare])
    write_lines(tmp_path / "mmlu.jsonl", [bare | {"category": "anatomy"}])
    assert documents("commonsense_qa", tmp_path)[""] == [{"context": ready["query"], "choices": ["A", "B"], "gold": 1}]
    for name in ("social_iqa", "mmlu"):
        (document,) = documents(name, tmp_path)[""]
        assert document == {"context": f"{bare['query'].strip()}\nAnswer:", "choices": ["x", "y", "z"], "gold": 2}


def test_race_with_one_question_a_record(tmp_path: Path) -> None:
    record = {"article": "Tom ran.", "question": "Who?", "options": ["Ann", "Tom"], "answer": "B", "example_id": "1"}
    write_lines(tmp_path / "race.jsonl", [record])
    expected = {"context": "Article: Tom ran.\n\nWho?", "choices": ["Ann", "Tom"], "gold": 1}
    assert documents("race", tmp_path) == {"": [expected]}


def test_a_split_or_a_folder_names_a_file(tmp_path: Path) -> None:
    record = HUGGING_FACE["mmlu"][1][0]
    for split in ("dev", "validation", "test"):
        write_lines(tmp_path / "mmlu" / f"{split}.jsonl", [record | {"question": split}])
    (document,) = documents("mmlu", tmp_path)[""]
    assert "\n\ntest\nA. no" in document["context"]


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("commonsense_qa", {"question": "q", "choices": LETTERS, "answerKey": ""}, "not a document of this benchmark"),
        ("social_iqa", HUGGING_FACE["social_iqa"][1][0] | {"label": ""}, "not a document of this benchmark"),
        (
            "social_iqa",
            HUGGING_FACE["social_iqa"][1][0] | {"label": "0"},
            "got -1 as the right choice, expected 0 to 2",
        ),
        ("mmlu", {"question": "q", "choices": ["a", "b"], "answer": 0}, "no field 'subject', has question"),
        ("race", {"article": "a", "problems": "[{"}, "not a document of this benchmark"),
        ("race", {"article": "a", "problems": "[]"}, "not a document of this benchmark"),
    ],
)
def test_a_record_that_is_no_document(name: str, record: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = named(tmp_path, name)
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError) as error:
        documents(name, tmp_path)
    assert f"{path}:1: {message}" in str(error.value)
