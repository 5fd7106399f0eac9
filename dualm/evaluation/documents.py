"""The documents of benchmarks, read from local files: how files are found, how records are parsed, how they are scored.

A document is a context, its possible continuations and the index of the right one. lm-eval does everything after that:
see `dualm.evaluation.harness`. A new benchmark is an entry of BENCHMARKS.

Prompts and metrics are those of lm-eval's tasks of the same names, with two differences. BLiMP's sentences begin a
document as in training, without the space that lm-eval puts first. The continuation of a HellaSwag context keeps its
lower-case first letter, since the text form of the data set does not say where it begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypedDict

from dualm.errors import UserError
from dualm.evaluation.texts import read_lines, read_records
from dualm.registry import Registry

JSON_LINES = ".jsonl"


class Document(TypedDict):
    context: str
    choices: list[str]  # a single one: the model must produce it
    gold: int  # which choice is right


def normalised(score: float, chance: float) -> float:
    """0 at chance, 100 at perfection (Samuel and Charpentier 2025, section 4): scores of different benchmarks on one scale."""
    return 100 * (score - chance) / (1 - chance)


# ---------------------------------------------------------------- one record -> a document


def minimal_pair(record: dict[str, Any]) -> Document:
    """BLiMP: which of two sentences is more likely."""
    return Document(context="", choices=[record["sentence_good"], record["sentence_bad"]], gold=0)


def last_word(record: dict[str, Any]) -> Document:
    """LAMBADA: the last word of a passage, given as `continuation` or as the end of `text`."""
    if "continuation" in record:
        return Document(context=record["context"], choices=[record["continuation"].strip()], gold=0)
    context, _, word = record["text"].rpartition(" ")
    return Document(context=context, choices=[word], gold=0)


def statement(record: dict[str, Any]) -> Document:
    """A beginning and its possible ends: {"query", "choices", "gold"}."""
    return Document(context=record["query"].strip(), choices=list(record["choices"]), gold=record["gold"])


def question(record: dict[str, Any]) -> Document:
    """A question and its possible answers, in the same format."""
    document = statement(record)
    return Document(document, context=f"{document['context']}\nAnswer:")


def ending(record: dict[str, Any]) -> Document:
    """HellaSwag as published: {"activity_label", "ctx", "endings", "label"}."""
    context = f"{record['activity_label']}: {record['ctx']}" if "activity_label" in record else record["ctx"]
    endings = [_without_markup(text) for text in record["endings"]]
    return Document(context=_without_markup(context), choices=endings, gold=int(record["label"]))


def _without_markup(text: str) -> str:
    """The WikiHow half of HellaSwag has section marks such as [title] in its text."""
    return re.sub(r"\[.*?\]", "", text.replace(" [title]", ". ")).replace("  ", " ").strip()


# ---------------------------------------------------------------- one file -> documents


def read(path: Path, parse: Callable[[dict[str, Any]], Document]) -> list[Document]:
    """The documents of a file: JSON Lines, or in a .txt six lines each: context, label and four endings.

    Raises:
        UserError: an empty or damaged file, or a record that is no document, with its line.
    """
    records = read_records(path) if path.suffix == JSON_LINES else _six_lines(path)
    documents = [_document(record, parse, position) for position, record in records]
    if not documents:
        raise UserError(f"{path}: the file is empty, expected documents")
    return documents


def _six_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = list(read_lines(path))
    for start in range(0, len(lines), 6):
        (number, context), *rest = lines[start : start + 6]
        if len(rest) < 5:
            raise UserError(f"{path}:{number}: got {len(rest) + 1} lines, expected 6: context, label and four endings")
        texts = [line for _, line in rest]
        yield f"{path}:{number}", {"ctx": context, "label": texts[0], "endings": texts[1:]}


def _document(record: dict[str, Any], parse: Callable[[dict[str, Any]], Document], position: str) -> Document:
    try:
        document = parse(record)
    except KeyError as error:
        raise UserError(f"{position}: no field {error}, has {', '.join(record)}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{position}: not a document of this benchmark: {error}") from None
    texts, gold = [document["context"], *document["choices"]], document["gold"]
    if not all(isinstance(text, str) for text in texts) or not all(document["choices"]):
        raise UserError(f"{position}: got {document['choices']}, expected choices that are texts and not empty")
    if gold not in range(len(document["choices"])):
        raise UserError(f"{position}: got {gold!r} as the right choice, expected 0 to {len(document['choices']) - 1}")
    return document


# ---------------------------------------------------------------- the files of a benchmark


@dataclass(frozen=True)
class Benchmark:
    """How the documents of a benchmark are found and parsed, and how lm-eval scores them.

    `names` are patterns of file names; the first one that matches counts. `folder` is given instead where a benchmark has
    subtasks: they are all JSON Lines files in a folder of that name. The folder may be `data` itself or its parent.
    """

    parse: Callable[[dict[str, Any]], Document]
    metric: str  # acc | acc_norm: log-likelihoods divided by the length of the choice
    names: tuple[str, ...] = ()
    folder: str = ""
    delimiter: str = " "  # between context and continuation

    def find(self, data: Path) -> dict[str, Path]:
        """The files of this benchmark below `data`, at any depth, by name of the subtask ("" if there is only one).

        Raises:
            UserError: there is none, or more than one fits.
        """
        data = data.resolve()
        files = sorted(path for path in data.rglob("*") if path.is_file())
        found = self._in_folder(files, data.parent.parent) if self.folder else self._by_name(files)
        if not found:
            wanted = f"*{JSON_LINES} in a folder {self.folder!r}" if self.folder else " or ".join(self.names)
            raise UserError(f"{data}: no file of this name at any depth, expected {wanted}")
        candidates = {path.parent if self.folder else path for path in found}
        if len(candidates) > 1:
            listed = ", ".join(map(str, sorted(candidates)))
            raise UserError(f"{data}: several match, expected one (give a narrower folder): {listed}")
        return {path.stem: path for path in found} if self.folder else {"": found[0]}

    def _in_folder(self, files: Iterable[Path], top: Path) -> list[Path]:
        lines = (path for path in files if path.suffix == JSON_LINES)
        return [path for path in lines if self.folder in map(str.lower, path.relative_to(top).parts[:-1])]

    def _by_name(self, files: list[Path]) -> list[Path]:
        matches = ([path for path in files if fnmatch(path.name.lower(), name)] for name in self.names)
        return next(filter(None, matches), [])


BENCHMARKS = Registry(
    "--tasks",
    {
        "blimp": Benchmark(minimal_pair, "acc", folder="blimp", delimiter=""),
        "lambada": Benchmark(last_word, "acc", ("lambada_openai*.jsonl", "lambada*.jsonl")),
        "hellaswag": Benchmark(
            ending, "acc_norm", ("hellaswag_val*.jsonl", "hellaswag_val*.txt", "hellaswag*.jsonl", "hellaswag*.txt")
        ),
        "arc_easy": Benchmark(question, "acc", ("arc_easy*.jsonl", "arc-easy*.jsonl")),
        "arc_challenge": Benchmark(question, "acc_norm", ("arc_challenge*.jsonl", "arc-challenge*.jsonl")),
        "piqa": Benchmark(question, "acc_norm", ("piqa*.jsonl",)),
        "openbookqa": Benchmark(statement, "acc_norm", ("openbookqa*.jsonl", "openbook_qa*.jsonl")),
    },
)


def documents(name: str, data: Path | None) -> dict[str, list[Document]]:
    """The documents of each subtask of the benchmark `name`. Raises UserError, as `find` and `read` do."""
    if data is None:
        raise UserError(f"--data: not given, expected the folder with the files of {name}")
    if not data.is_dir():
        raise UserError(f"--data: {data}: no such folder, expected one with the files of {name}")
    benchmark = BENCHMARKS[name]
    return {subtask: read(path, benchmark.parse) for subtask, path in benchmark.find(data).items()}
