"""`dualm evaluate RUN --text FILES`: zero-shot perplexity of text files, read in sliding windows.

A file is one document: `<s>`, its text, and no `</s>`, since the end of a file is rarely the end of a document. So the
tokens counted are those of the text alone, and bits per byte divides by the bytes of that same text (UTF-8, without byte
order mark, line breaks as \\n). A tokenizer that turns what it does not know into `<unk>` makes the bits per byte too
small.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from dualm.data.tokenizer import BOS, Tokenizer, pieces
from dualm.errors import UserError
from dualm.evaluation.kind import Kind, label, scorings
from dualm.evaluation.statistics import weighted_mean
from dualm.evaluation.tables import grouped, result_table, shown
from dualm.evaluation.texts import read_text
from dualm.likelihood.pairs import Pair, windows

if TYPE_CHECKING:
    from dualm.language_model import LanguageModel
    from dualm.likelihood.modes import Scoring

DEFAULT_MODES = ("ar", "mc")


@dataclass(frozen=True)
class Texts:
    """Which texts are read, and how."""

    files: tuple[Path, ...]
    scorings: tuple[Scoring, ...]
    stride: int | None = None  # tokens scored per window
    batch: int = field(default=8, compare=False)

    @property
    def label(self) -> tuple[str, ...]:
        return label([path.stem for path in self.files], [scoring.mode for scoring in self.scorings])


class Read(Protocol):
    """Settings of an evaluation whose results are TextResults."""

    @property
    def scorings(self) -> tuple[Scoring, ...]: ...


@dataclass(frozen=True)
class TextResult:
    file: str
    mode: str
    nats_per_token: float
    standard_error: float
    tokens: int
    bytes: int
    windows: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """Per token: of this tokenizer, so compare it among models that share it only."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_token * self.tokens / self.bytes / math.log(2)


def encode_document(tokenizer: Tokenizer, text: str) -> Pair:
    """`<s>` as the context, all tokens of the text to score."""
    return Pair(np.array([BOS]), np.concatenate(tokenizer.encode(list(pieces(text)))))


def perplexity(
    model: LanguageModel, path: Path, scoring: Scoring, stride: int | None = None, batch: int = 8
) -> TextResult:
    """Mean loss of the tokens of a file, each given at least `context - stride` tokens before it (except the first ones).

    `stride` is how many tokens a window scores, by default half the context. With the whole context as stride, windows do
    not overlap, as in the tables of Sahoo et al. 2024 (MDLM, section 5.2); the first token of a window then follows one
    token only. (A shorter last window still has a whole context before it.) In mode mc the tokens of a window are masked
    together: the NELBO of blocks of `stride` tokens.

    The standard error takes windows as independent (as `weighted_mean` does) and includes the Monte Carlo noise.
    Neighbouring windows are similar, so for one long text it is too small. It is nan for a single window.

    Raises:
        UserError: what `read_text` raises, or a stride outside 1 to the context.
    """
    if stride is not None and not 1 <= stride <= model.context:
        raise UserError(f"--stride: got {stride}, expected 1 to {model.context}, the context of the model")
    text = read_text(path)
    size = model.context + scoring.how.causal
    cut = windows(encode_document(model.tokenizer, text), size, min(stride or size // 2, size - 1))
    return of_windows(model, str(path), cut, len(text.encode()), scoring, batch)


def of_windows(
    model: LanguageModel, name: str, cut: Sequence[Pair], size: int, scoring: Scoring, batch: int
) -> TextResult:
    """The loss of the tokens that windows score, of a text of `size` bytes."""
    start = time.perf_counter()
    scores = model.score_tokens(cut, scoring, batch)
    tokens = np.array([score.tokens for score in scores])
    losses = np.array([-score.log_likelihood / score.tokens for score in scores])
    mean, error = weighted_mean(losses, tokens)
    return TextResult(
        name,
        scoring.mode,
        mean,
        error if len(cut) > 1 else math.nan,
        int(tokens.sum()),
        size,
        len(cut),
        time.perf_counter() - start,
    )


# ---------------------------------------------------------------- the kind of evaluation


def add_arguments(group: argparse._ArgumentGroup) -> None:
    modes = ",".join(DEFAULT_MODES)
    group.add_argument(
        "--text", nargs="+", type=Path, metavar="FILE", help=f"perplexity of text files (default modes: {modes})"
    )
    group.add_argument("--stride", type=int, help="tokens scored per window of a text (default: half the context)")


def settings(arguments: argparse.Namespace) -> Texts:
    return Texts(tuple(arguments.text), scorings(arguments, DEFAULT_MODES), arguments.stride, arguments.batch)


def read(what: Texts) -> None:
    """Read every text once, so that a damaged one is found before anything is measured. Raises UserError for it."""
    for path in what.files:
        read_text(path)


def run(model: LanguageModel, what: Texts, inputs: None, say: Callable[[str], None]) -> Iterator[TextResult]:
    for path in what.files:
        for scoring in what.scorings:
            say(f"{path}, mode {scoring.mode}")
            yield perplexity(model, path, scoring, what.stride, what.batch)


def row(result: TextResult) -> dict[str, Any]:
    return asdict(result) | {"perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}


def table(results: Sequence[TextResult], title: str, what: Read) -> RenderableType:
    """Loss per token, perplexity and bits per byte of each text in each mode."""
    made = result_table(title, ("text", "mode"), ("nats/token ± s.e.", "perplexity", "bits/byte", "tokens", "sec"))
    modes = {scoring.mode: scoring.how for scoring in what.scorings}
    for group in grouped(results, lambda result: result.file):
        for name, result in group:
            made.add_row(
                Path(name).name,
                result.mode,
                f"{result.nats_per_token:.3f} ± {shown(result.standard_error, 3)}",
                ("≤ " if modes[result.mode].bound else "") + f"{result.perplexity:.2f}",
                f"{result.bits_per_byte:.3f}",
                f"{result.tokens:,}",
                f"{result.seconds:.1f}",
            )
        made.add_section()
    return Group(made, *(Text(mode.note, "dim") for mode in modes.values() if mode.note))


KIND = Kind(add_arguments, settings, read, run, row, table)
