"""Zero-shot perplexity of text files, read in sliding windows.

A file is one document: `<s>`, its text, and no `</s>`, for where a file ends says little about where a document does.
So the tokens counted are those of the text alone, and bits per byte divides by the bytes of that same text (UTF-8,
without byte order mark, line breaks as \\n). A tokenizer that turns what it does not know into `<unk>` makes the bits per
byte too small.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualm.data.tokenizer import BOS, Tokenizer, pieces
from dualm.errors import UserError
from dualm.evaluation.statistics import weighted_mean
from dualm.evaluation.texts import read_text
from dualm.language_model import LanguageModel
from dualm.likelihood.modes import Scoring
from dualm.likelihood.pairs import Pair, windows


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
    """Mean loss of the tokens of a file, each given at least `context - stride` tokens before it (but for the first).

    `stride` is how many tokens a window scores, by default half the context. As many as the context, and windows do
    not overlap, as in the tables of Sahoo et al. 2024 (MDLM, section 5.2); the one token before a window then is all that
    its first token follows. (The last window, if shorter, reaches back for a whole context in any case.) In mode mc a window's tokens are masked together: the NELBO of blocks of `stride` tokens.

    The standard error takes windows as independent (as in `weighted_mean`), Monte Carlo noise included. It leaves
    out that neighbouring windows are alike, so that for one long text it is too small; and it is nan for a single window.

    Raises:
        UserError: what `read_text` raises, or a stride that is no part of the context.
    """
    if stride is not None and not 1 <= stride <= model.context:
        raise UserError(f"--stride: got {stride}, expected 1 to {model.context}, the model's context")
    start, text = time.perf_counter(), read_text(path)
    size = model.context + scoring.how.causal
    cut = windows(encode_document(model.tokenizer, text), size, min(stride or size // 2, size - 1))
    scores = model.score_tokens(cut, scoring, batch)
    tokens = np.array([score.tokens for score in scores])
    losses = np.array([-score.log_likelihood / score.tokens for score in scores])
    mean, error = weighted_mean(losses, tokens)
    return TextResult(
        str(path),
        scoring.mode,
        mean,
        error if len(cut) > 1 else math.nan,
        int(tokens.sum()),
        len(text.encode()),
        len(cut),
        time.perf_counter() - start,
    )
