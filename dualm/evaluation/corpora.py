"""`dualm evaluate RUN --corpora NAMES --data DIR`: perplexity of data sets, many documents cut into windows without overlap.

Each document is detokenized and followed by `</s>`; `<s>` begins the first one. Windows have at most `length` tokens and do
not stop at the end of a document, nor does attention: short documents are read after others, as in the tables of Sahoo et
al. 2024 (kuleshov-group/mdlm, dataloader.py with `wrap: True`). There each window has a beginning- and an end-of-text token
of its own, and what does not fill a window is dropped; here the first token of a window follows the last one of the window
before, and all is read. The mean is over all tokens, `</s>` among them; bits per byte divides by the bytes of the texts alone.
Documents without a letter are left out. A new data set is an entry of CORPORA.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dualm.data.tokenizer import BOS, EOS
from dualm.errors import UserError
from dualm.evaluation import detokenizers, perplexity
from dualm.evaluation.detokenizers import Rules, detokenized
from dualm.evaluation.documents import JSON_LINES, TEST, VALIDATION, given_folder, in_words, only_file, patterns
from dualm.evaluation.kind import Kind, check_at_least, label, names, scorings
from dualm.evaluation.perplexity import TextResult
from dualm.evaluation.records import Record
from dualm.evaluation.texts import read_lines, read_records
from dualm.likelihood.pairs import Pair, windows
from dualm.registry import Registry

if TYPE_CHECKING:
    from dualm.language_model import LanguageModel
    from dualm.likelihood.modes import Scoring

DEFAULT_MODES = ("ar", "mc")
BOTH = (JSON_LINES, ".txt")


@dataclass(frozen=True)
class Corpus:
    """A data set: JSON Lines with a text in `key`, or a .txt with a document on each line."""

    names: tuple[str, ...]  # patterns of its file, as those of a benchmark
    rules: Rules = ()
    key: str = "text"

    @property
    def expected(self) -> str:
        return in_words(self.names)

    def find(self, data: Path) -> Path | None:
        """Its file below `data`, at any depth. Raises UserError if several fit."""
        return only_file(data.resolve(), self.names)

    def documents(self, path: Path) -> Iterator[str]:
        """Raises UserError for a damaged file, or a record without the text."""
        if path.suffix != JSON_LINES:
            texts = (line for _, line in read_lines(path))
        else:
            texts = (self._text(record, position) for position, record in read_records(path))
        yield from (detokenized(text, self.rules) for text in texts if text.strip())

    def _text(self, record: Record, position: str) -> str:
        if {"context", "continuation"} <= set(record):  # LAMBADA as llm-foundry has it
            return f"{record['context']} {record['continuation'].strip()}"
        if not isinstance(record.get(self.key), str):
            raise UserError(f"{position}: got no text in field {self.key!r}, has {', '.join(record)}")
        return record[self.key]


def _val(*stems: str) -> tuple[str, ...]:
    return patterns(*stems, split=VALIDATION, kinds=BOTH)


def _test(*stems: str) -> tuple[str, ...]:
    return patterns(*stems, split=TEST, kinds=BOTH)


CORPORA = Registry(
    "--corpora",
    {
        "ptb": Corpus(_val("ptb", "penn"), detokenizers.PTB, "sentence"),
        "wikitext": Corpus(_val("wikitext", "wiki"), detokenizers.WIKITEXT),
        "lm1b": Corpus(("news.en.heldout*", *_test("lm1b")), detokenizers.LM1B),
        "lambada": Corpus(_test("lambada"), detokenizers.LAMBADA),
        "ag_news": Corpus(_test("ag_news", "agnews")),
        "pubmed": Corpus(_val("pubmed", "scientific_papers_pubmed"), detokenizers.PAPERS, "article"),
        "arxiv": Corpus(_val("arxiv", "scientific_papers_arxiv"), detokenizers.PAPERS, "article"),
    },
)


@dataclass(frozen=True)
class Corpora:
    """Which data sets are read, and how. Raises UserError for a limit or a length below its least value."""

    files: tuple[tuple[str, Path], ...]  # a name of CORPORA, and its file
    scorings: tuple[Scoring, ...]
    length: int | None = None  # tokens of a window, at most the model's context (None: that)
    limit: int | None = None  # documents of each
    batch: int = field(default=8, compare=False)

    def __post_init__(self) -> None:
        check_at_least(1, "--limit", self.limit)
        check_at_least(2, "--length", self.length)

    @property
    def label(self) -> tuple[str, ...]:
        return label([name for name, _ in self.files], [scoring.mode for scoring in self.scorings], limit=self.limit)


def add_arguments(group: argparse._ArgumentGroup) -> None:
    modes = ",".join(DEFAULT_MODES)
    group.add_argument(
        "--corpora",
        type=names,
        metavar="NAMES",
        help=f"perplexity of data sets in --data DIR: {', '.join(CORPORA)} (default modes: {modes})",
    )
    group.add_argument("--length", type=int, help="tokens of a window of a data set (default: the model's context)")


def settings(arguments: argparse.Namespace) -> Corpora:
    asked = tuple((name, located(name, arguments.data)) for name in arguments.corpora)
    ways = scorings(arguments, DEFAULT_MODES)
    return Corpora(asked, ways, arguments.length, arguments.limit, arguments.batch)


def located(name: str, data: Path | None) -> Path:
    """The file of a data set in the folder `data`. Raises UserError for an unknown name, a missing folder or file."""
    corpus = CORPORA.choose(name)
    found = corpus.find(given_folder(data, name))
    if found is None:
        raise UserError(f"{data}: no file of this name at any depth, expected {corpus.expected}")
    return found


def read(what: Corpora) -> dict[str, list[str]]:
    """The documents of each data set. Raises UserError for a damaged file, or one without a document."""
    found = {name: list(islice(CORPORA[name].documents(path), what.limit)) for name, path in what.files}
    for name, path in what.files:
        if not found[name]:
            raise UserError(f"{path}: the file is empty, expected documents")
    return found


def run(
    model: LanguageModel, what: Corpora, texts: dict[str, list[str]], say: Callable[[str], None]
) -> Iterator[TextResult]:
    for name, documents in texts.items():
        pair, size = joined(model, documents), sum(len(text.encode()) for text in documents)
        for scoring in what.scorings:
            say(f"{name}, mode {scoring.mode}")
            most = min(what.length or model.context, model.context) + scoring.how.causal
            yield perplexity.of_windows(model, name, windows(pair, most, most - 1), size, scoring, what.batch)


def joined(model: LanguageModel, documents: list[str]) -> Pair:
    """`<s>` as the context; the tokens of all documents, each with `</s>` behind it, to score."""
    end = np.array([EOS])
    parts = [part for tokens in model.tokenizer.encode(documents) for part in (tokens, end)]
    return Pair(np.array([BOS]), np.concatenate(parts))


KIND = Kind(add_arguments, settings, read, run, perplexity.row, perplexity.table)
