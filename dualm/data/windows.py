"""Windows: what one training sequence reads of a prepared split.

packed   documents end to end, cut every L tokens; a window is L + 1 tokens, the last one a target only. So validation reads a
         split; training reads the subset of it that T/R tokens ask for (dualm.data.tape)
rows     one document a window, cut or padded with <pad> (MDLM's setting for LM1B: Sahoo et al. 2024)
pairs    <s> prompt response </s> </s> ...: a prompt that is given and a response to learn (SMDM, LLaDA)

Every window takes L tokens of the budget T, padding included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from dualm.config import DataConfig
from dualm.data.shards import TokenStream
from dualm.data.tokenizer import BOS, EOS, PAD
from dualm.data.units import DOCUMENTS_AT_ONCE, keys, mixed
from dualm.errors import UserError
from dualm.registry import Registry


class Window(NamedTuple):
    """Tokens `[L + 1]`; the first `given` of them are never masked and never supervised (a prompt; 0: none).

    `pieces` `[L + 1]` numbers the pieces that the window is put together from; None: it is one.
    """

    tokens: np.ndarray
    given: int = 0
    pieces: np.ndarray | None = None

    @property
    def inputs(self) -> np.ndarray:
        """The tokens that the network reads, `[L]`."""
        return self.tokens[:-1]

    @property
    def documents(self) -> np.ndarray:
        """The number of each token's document, `[L + 1]`; a piece from the middle of one counts as a document."""
        return document_ids(self.tokens, self.pieces)


def document_ids(tokens: np.ndarray, pieces: np.ndarray | None = None) -> np.ndarray:
    """Number the documents of packed `tokens` `[..., length]`: each begins with `<s>`, or with a piece.

    Padding is a document of its own.
    """
    begins = tokens == BOS
    if pieces is not None:
        begins |= np.diff(pieces, prepend=pieces[..., :1]) != 0
    return np.where(tokens == PAD, -1, np.cumsum(begins, axis=-1))


class Windows(Protocol):
    """The windows of one split, in the order of the corpus."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Window: ...

    @property
    def remark(self) -> str | None:
        """What the user should know of text that no window holds, if there is any."""


class Tokens(Protocol):
    """A stream of tokens, such as a `TokenStream`."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Packed:
    """Window i holds tokens i·L ... (i + 1)·L of the stream; one that is shorter than a window is padded."""

    stream: Tokens
    context: int  # L
    remark = None

    def __len__(self) -> int:
        return max(1, (len(self.stream) - 1) // self.context)

    def __getitem__(self, index: int) -> Window:
        start = index * self.context
        return Window(
            padded(self.stream.read(start, min(len(self.stream), start + self.context + 1)), self.context, PAD)
        )


@dataclass(frozen=True)
class Rows:
    """Window i holds document i: `<s> text </s>`, of which what is beyond the window is cut off."""

    stream: TokenStream
    context: int  # L

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __getitem__(self, index: int) -> Window:
        start, end = self.borders[index : index + 2].tolist()
        return Window(padded(self.stream.read(start, min(end, start + self.context + 1)), self.context, PAD))

    @property
    def remark(self) -> str | None:
        cut = np.count_nonzero(np.diff(self.borders) > self.context + 1)
        return f"{cut:,} of {len(self):,} rows are longer than the context of {self.context} and cut" if cut else None

    @property
    def digests(self) -> np.ndarray:
        """What tells the texts of the windows apart `[windows]`."""
        return document_digests(self.stream)

    @cached_property
    def borders(self) -> np.ndarray:
        """Where each document starts, and where the last one ends `[documents + 1]`."""
        return np.append(self.stream.documents, len(self.stream))


@dataclass(frozen=True)
class Pairs:
    """Documents 2i and 2i + 1 of the stream are a prompt and its response; a pair that does not fit is left out.

    A response that is cut teaches to stop too early or too late, and a prompt that is cut lacks what the response
    answers, so neither is. The padding is `</s>`, which in masked diffusion is learned like the rest of the response:
    so the model writes where a response ends (Nie et al. 2025, section 2.3).

    Raises:
        UserError: no pair fits.
    """

    stream: TokenStream
    context: int  # L
    supervise_prompt: bool = False

    def __post_init__(self) -> None:
        if not len(self.kept):
            raise UserError(
                f"model.context: got {self.context}, expected at least {self.lengths.min() - 1}, which the shortest "
                "prompt and response need"
            )

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Window:
        start, middle, end = self.borders[self.kept[index]].tolist()
        prompt = self.stream.read(start, middle - 1)  # <s> and the prompt, without its </s>
        response = self.stream.read(middle + 1, end)  # the response and </s>, without its <s>
        tokens = padded(np.concatenate([prompt, response]), self.context, EOS)
        return Window(tokens, 0 if self.supervise_prompt else len(prompt))

    @property
    def remark(self) -> str | None:
        left_out, pairs = len(self.borders) - len(self), len(self.borders)
        return (
            f"{left_out:,} of {pairs:,} pairs exceed the context of {self.context} and are left out"
            if left_out
            else None
        )

    @property
    def digests(self) -> np.ndarray:
        """What tells the pairs apart `[windows]`."""
        digests = document_digests(self.stream)
        return (mixed(digests[::2]) ^ digests[1::2])[self.kept]

    @cached_property
    def borders(self) -> np.ndarray:
        """Where each prompt starts, where its response starts, and where that ends `[pairs, 3]`."""
        starts = self.stream.documents
        return np.stack([starts[::2], starts[1::2], np.append(starts[2::2], len(self.stream))], axis=1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of `<s> prompt response </s>` `[pairs]`."""
        return self.borders[:, 2] - self.borders[:, 0] - 2

    @cached_property
    def kept(self) -> np.ndarray:
        """The pairs that fit into a window `[windows]`."""
        return np.flatnonzero(self.lengths <= self.context + 1)


def document_digests(stream: TokenStream) -> np.ndarray:
    """The digest of every document `[documents]`."""
    return np.concatenate([block.digests for block in stream.document_blocks(DOCUMENTS_AT_ONCE)])


def padded(tokens: np.ndarray, context: int, token: int) -> np.ndarray:
    """`tokens` with as many of `token` after them as a window `[context + 1]` wants."""
    return np.pad(tokens, (0, context + 1 - len(tokens)), constant_values=token)


# By `data.format`.
FORMATS: Registry[Callable[[DataConfig, TokenStream, int], Windows]] = Registry(
    "data.format",
    {
        "packed": lambda data, stream, context: Packed(stream, context),
        "rows": lambda data, stream, context: Rows(stream, context),
        "pairs": lambda data, stream, context: Pairs(stream, context, data.supervise_prompt),
    },
)


@dataclass(frozen=True)
class Chosen:
    """Some of the windows."""

    windows: Windows
    numbers: np.ndarray

    @property
    def remark(self) -> str | None:
        return self.windows.remark

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Window:
        return self.windows[int(self.numbers[index])]


def random_windows(windows: Rows | Pairs, seed: int, count: int) -> Chosen:
    """The first `count` windows in the order of their keys, as units are chosen (dualm.data.units)."""
    digests = windows.digests
    order = np.argsort(keys(digests, np.zeros(len(digests), np.int64), seed), kind="stable")
    return Chosen(windows, order[:count])


def open_windows(data: DataConfig, stream: TokenStream, context: int) -> Windows:
    """The windows of one split, as `data.format` says.

    Raises:
        UserError: an unknown format, or pairs of which none fits.
    """
    return FORMATS.choose(data.format)(data, stream, context)
