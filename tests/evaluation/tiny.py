"""What the tests of evaluation share: a tiny model in a folder, and tiny files of every benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dualm.data.tokenizer import byte_tokenizer
from dualm.model import weights
from tests.conftest import random_model


def save_model(folder: Path, context: int = 64) -> Path:
    """A random model that reads bytes."""
    model, tokenizer = random_model(0, 0.3, layers=2, context=context, vocab=272), byte_tokenizer()
    weights.save(folder, model.state_dict(), model.config, {"shifted": True, "tokenizer": tokenizer.hash})
    tokenizer.save(folder / "tokenizer.json")
    return folder


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def written(out: Path) -> dict[str, Any]:
    """The one JSON file of results in a folder."""
    (path,) = out.glob("*.json")
    return json.loads(path.read_text())


PAIRS = {
    "agreement": [("The cats sleep.", "The cats sleeps."), ("A dog barks.", "A dog bark."), ("We are.", "We is.")],
    "islands": [("Who left?", "Who who left?"), ("I know it.", "I it know.")],
}
QUESTIONS = [
    {"query": "Question: What is wet?\n", "choices": ["water", "a very dry stone", "sand"], "gold": 0},
    {"query": "Question: What is red?", "choices": ["grass", "blood"], "gold": 1},
    {"query": "Question: What flies?", "choices": ["a bird", "a table", "a hill"], "gold": 0},
    {"query": "Question: What is cold?", "choices": ["fire", "ice"], "gold": 1},
]
PASSAGES = [
    {"context": "The cat sat on the", "continuation": "mat"},
    {"context": "Once upon a", "continuation": "time"},
]
HELLASWAG = "A man sits. he\n1\nfalls off.\nstands up.\nis a roof.\nsings.\n" * 2


def write_data(folder: Path) -> Path:
    """Files of all benchmarks, some of them deep down."""
    for name, pairs in PAIRS.items():
        records = [{"sentence_good": good, "sentence_bad": bad, "pairID": "0"} for good, bad in pairs]
        write_lines(folder / "blimp" / "data" / f"{name}.jsonl", records)
    write_lines(folder / "foundry" / "lambada_openai.jsonl", PASSAGES)
    write_lines(folder / "lambada_standard.jsonl", [{"text": "he said he would n't go"}])
    for name in ("arc_easy", "arc_challenge", "piqa", "openbook_qa", "commonsense_qa", "mmlu", "siqa", "boolq", "race"):
        write_lines(folder / "foundry" / f"{name}.jsonl", QUESTIONS)
    (folder / "hellaswag_val_full.txt").write_text(HELLASWAG)
    return folder
