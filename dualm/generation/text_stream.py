"""The text of tokens that come one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualm.data.tokenizer import EOS

INCOMPLETE = "\ufffd"  # what bytes that are no whole character are decoded to


class TextStream:
    """Text that grows by a token at a time, up to its `</s>` or the first of the strings in `stop`.

    A new token is decoded together with the piece before it and no other, so a text of n tokens costs n such steps. A
    tokenizer may write a token differently at the beginning of a text, so that piece is needed. A character whose bytes have
    not all come yet is held back until `finish`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.text, self.ended = "", False
        self._decode, self._stop = decode, stop
        self._before: list[int] = []  # the last piece that is part of the text
        self._new: list[int] = []  # tokens whose text is still held back

    def add(self, token: int) -> None:
        if token == EOS:
            self.finish()
        if self.ended:
            return
        self._new.append(token)
        piece = self._piece()
        if not piece.endswith(INCOMPLETE):
            self._append(piece)

    def finish(self) -> str:
        """No token follows; returns the whole text."""
        if self._new and not self.ended:
            self._append(self._piece())
        self.ended = True
        return self.text

    def _piece(self) -> str:
        return self._decode([*self._before, *self._new])[len(self._decode(self._before)) :]

    def _append(self, piece: str) -> None:
        known = len(self.text)
        self.text += piece
        self._before, self._new = self._new, []
        for word in self._stop:
            found = self.text.find(word, max(0, known - len(word)))
            if found >= 0:
                self.text, self.ended = self.text[:found], True
