"""Text that grows token by token is the text of all tokens, at a cost that grows with its length."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualm.data.tokenizer import EOS, Tokenizer, byte_tokenizer, train_bpe
from dualm.generation.text_stream import TextStream

TEXTS = ["The sea 🌊 sang. Ärger über Öl, 日本語 und so weiter.", "no stops here", ""]
TOKENIZERS = {"bytes": byte_tokenizer(), "bpe": train_bpe(["the old sea sang 🌊 " * 50], 300)}


def streamed(tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str] = ()) -> TextStream:
    stream = TextStream(tokenizer.decode, stop)
    for token in tokens:
        stream.add(token)
    return stream


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.one_of(st.sampled_from(TEXTS), st.text(max_size=30)), cut=st.integers(0, 5))
def test_it_ends_as_the_text_of_all_tokens(name: str, text: str, cut: int) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode([text])[0].tolist()
    tokens = tokens[: max(0, len(tokens) - cut)]  # a last character may lack some of its bytes
    stream = TextStream(tokenizer.decode)
    for token in tokens:
        before = stream.text
        stream.add(token)
        assert stream.text.startswith(before)
    assert stream.finish() == tokenizer.decode(tokens)


def test_it_stops_at_the_first_stop_string_even_across_tokens() -> None:
    tokenizer = TOKENIZERS["bytes"]
    tokens = tokenizer.encode(["one\n\ntwo END three"])[0].tolist()
    stream = streamed(tokenizer, tokens, ["END", "\n\n"])
    assert (stream.text, stream.ended) == ("one", True)
    assert streamed(tokenizer, tokens, ["END"]).finish() == "one\n\ntwo "


def test_it_ends_with_the_end_of_text() -> None:
    tokenizer = TOKENIZERS["bytes"]
    first, second = (tokenizer.encode([text])[0].tolist() for text in ("first", "second"))
    stream = streamed(tokenizer, [*first, EOS, *second])
    assert (stream.finish(), stream.ended) == ("first", True)


def test_the_cost_of_a_token_does_not_grow() -> None:
    tokenizer = TOKENIZERS["bytes"]
    sizes: list[int] = []

    def decode(tokens: Sequence[int]) -> str:
        sizes.append(len(tokens))
        return tokenizer.decode(tokens)

    stream = TextStream(decode)
    for token in tokenizer.encode(["x🌊" * 200])[0].tolist():
        stream.add(token)
    assert stream.finish() == "x🌊" * 200
    assert max(sizes) <= 8  # two characters of four bytes each
