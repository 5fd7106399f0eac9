"""The documents of benchmarks, read from local files: which files, how their records are parsed, how they are scored.

lm-eval does everything after that: see `dualm.evaluation.harness`. A new benchmark is an entry of BENCHMARKS and, unless
its records look like another's, a function in `dualm.evaluation.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from dualm.errors import UserError
from dualm.evaluation import records
from dualm.evaluation.records import Document, Record
from dualm.evaluation.texts import read_lines, read_records
from dualm.registry import Registry

JSON_LINES = ".jsonl"


def normalised(score: float, chance: float) -> float:
    """0 at chance, 100 at perfection (Samuel and Charpentier 2025, section 4): scores of different benchmarks on one scale."""
    return 100 * (score - chance) / (1 - chance)


# ---------------------------------------------------------------- one file -> documents


def read(path: Path, parse: Callable[[Record], Document]) -> list[Document]:
    """The documents of a file: JSON Lines, or in a .txt six lines each: context, label and four endings.

    Raises:
        UserError: an empty or damaged file, or a record that is no document, with its line.
    """
    found = read_records(path) if path.suffix == JSON_LINES else _six_lines(path)
    documents = [_document(record, parse, position) for position, record in found]
    if not documents:
        raise UserError(f"{path}: the file is empty, expected documents")
    return documents


def _six_lines(path: Path) -> Iterator[tuple[str, Record]]:
    lines = list(read_lines(path))
    for start in range(0, len(lines), 6):
        (number, context), *rest = lines[start : start + 6]
        if len(rest) < 5:
            raise UserError(f"{path}:{number}: got {len(rest) + 1} lines, expected 6: context, label and four endings")
        texts = [line for _, line in rest]
        yield f"{path}:{number}", {"ctx": context, "label": texts[0], "endings": texts[1:]}


def _document(record: Record, parse: Callable[[Record], Document], position: str) -> Document:
    try:
        document = parse(record)
    except KeyError as error:
        raise UserError(f"{position}: no field {error}, has {', '.join(record)}") from None
    except (TypeError, ValueError, AttributeError, IndexError, SyntaxError) as error:
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

    `names` are patterns of file names; the first one that matches counts. They are compared with the name of a file and
    with that of its folder before it (`mmlu/test.jsonl` is `mmlu_test.jsonl` too). `folder` is given instead where a benchmark
    has subtasks: they are all JSON Lines files in a folder of that name. The folder may be `data` itself or its parent.
    """

    parse: Callable[[Record], Document]
    metric: str  # acc | acc_norm: log-likelihoods divided by the length of the choice
    names: tuple[str, ...] = ()
    folder: str = ""
    delimiter: str = " "  # between context and continuation

    @property
    def expected(self) -> str:
        """The files that are looked for, in words."""
        return f"*{JSON_LINES} in a folder {self.folder!r}" if self.folder else in_words(self.names)

    def find(self, data: Path) -> dict[str, Path]:
        """The files of this benchmark below `data`, at any depth, by name of the subtask ("" if there is only one).

        Raises:
            UserError: more than one fits. None at all is an empty answer.
        """
        data = data.resolve()
        if not self.folder:
            return {"": found} if (found := only_file(data, self.names)) else {}
        lines = sorted(path for path in data.rglob(f"*{JSON_LINES}") if path.is_file())
        found = [
            path for path in lines if self.folder in map(str.lower, path.relative_to(data.parent.parent).parts[:-1])
        ]
        refuse_several(data, {path.parent for path in found})
        return {path.stem: path for path in found}


def in_words(names: tuple[str, ...]) -> str:
    """Patterns of file names, without those that another one covers."""
    return " or ".join(name for name in names if not any(fnmatch(name, one) for one in names if one != name))


def only_file(data: Path, names: Iterable[str]) -> Path | None:
    """The file below `data`, at any depth, that the first fitting pattern names. Raises UserError if several fit it."""
    files = sorted(path for path in data.rglob("*") if path.is_file())
    for name in names:
        fitting = [path for path in files if any(fnmatch(each.lower(), name) for each in _names(path))]
        refuse_several(data, fitting)
        if fitting:
            return fitting[0]
    return None


def _names(path: Path) -> tuple[str, str]:
    return path.name, f"{path.parent.name}_{path.name}"


def refuse_several(data: Path, found: Iterable[Path]) -> None:
    candidates = sorted(map(str, found))
    if len(candidates) > 1:
        listed = ", ".join(candidates)
        raise UserError(f"{data}: several match, expected one (give a narrower folder): {listed}")


VALIDATION, TEST = ("valid", "val"), ("test",)  # in names of files


def patterns(*stems: str, split: tuple[str, ...], kinds: tuple[str, ...] = (JSON_LINES,)) -> tuple[str, ...]:
    """The names of a file whose name begins with one of `stems`: those with the name of the split first."""
    parts = (*(f"*{name}*" for name in split), "*")
    return tuple(f"{stem}{part}{kind}" for part in parts for stem in stems for kind in kinds)


BENCHMARKS = Registry(
    "--tasks",
    {
        "blimp": Benchmark(records.minimal_pair, "acc", folder="blimp", delimiter=""),
        "lambada": Benchmark(records.last_word, "acc", ("lambada_openai*.jsonl", "lambada*.jsonl")),
        "lambada_standard": Benchmark(records.last_word, "acc", ("lambada_standard*.jsonl",)),
        "hellaswag": Benchmark(
            records.ending, "acc_norm", patterns("hellaswag", split=VALIDATION, kinds=(JSON_LINES, ".txt"))
        ),
        "arc_easy": Benchmark(records.science_question, "acc", patterns("arc_easy", "arc-easy", split=TEST)),
        "arc_challenge": Benchmark(
            records.science_question, "acc_norm", patterns("arc_challenge", "arc-challenge", split=TEST)
        ),
        "piqa": Benchmark(records.goal, "acc_norm", patterns("piqa", split=VALIDATION)),
        "openbookqa": Benchmark(
            records.science_statement, "acc_norm", patterns("openbookqa", "openbook_qa", split=TEST)
        ),
        "commonsense_qa": Benchmark(
            records.common_sense, "acc", patterns("commonsense_qa", "commonsenseqa", split=VALIDATION)
        ),
        "mmlu": Benchmark(records.exam_question, "acc", patterns("mmlu", split=TEST)),
        "social_iqa": Benchmark(
            records.social_situation, "acc", patterns("social_i_qa", "social_iqa", "siqa", split=VALIDATION)
        ),
        "boolq": Benchmark(records.yes_or_no, "acc", patterns("boolq", split=VALIDATION)),
        "race": Benchmark(records.exam_passage, "acc", patterns("race", split=TEST)),
    },
)


def given_folder(data: Path | None, what: str) -> Path:
    """The folder with the user's files. Raises UserError if there is none."""
    if data is None:
        raise UserError(f"--data: not given, expected the folder with the files of {what}")
    if not data.is_dir():
        raise UserError(f"--data: {data}: no such folder, expected one with the files of {what}")
    return data


def documents(name: str, data: Path | None) -> dict[str, list[Document]]:
    """The documents of each subtask of the benchmark `name`.

    Raises:
        UserError: no such folder or file, several files that fit, a damaged file.
    """
    benchmark, data = BENCHMARKS[name], given_folder(data, name)
    found = benchmark.find(data)
    if not found:
        raise UserError(f"{data}: no file of this name at any depth, expected {benchmark.expected}")
    return {subtask: read(path, benchmark.parse) for subtask, path in found.items()}
