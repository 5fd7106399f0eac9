"""Tokenizers: one layout of ids, text that comes back as it was, and foreign ones relabelled into the layout."""

import json
import re
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dualm.data.tokenizer import (
    BOS,
    EOS,
    MASK,
    PAD,
    PIECE,
    RESERVED,
    RESERVED_TOKENS,
    SPLITS,
    UNK,
    Tokenizer,
    build,
    byte_tokenizer,
    from_file,
    own_reserved,
    pieces,
    relabel,
    train_bpe,
    train_chars,
)
from dualm.errors import UserError

TEXTS = [f"The {colour} fox no. {i} jumps; it's “naïve”.\n  Twice\t" for i in range(40) for colour in ("red", "blue")]
LITERAL = "x <s> a</s><mask>  <<pad>> <reserved-7><unk>"
BPE = train_bpe(TEXTS, 340)
OURS = {"bpe": BPE, "bytes": byte_tokenizer(), "chars": train_chars([*TEXTS, LITERAL])}


@pytest.mark.parametrize("name", OURS)
def test_layout_and_special_names_in_a_text(name):
    tokenizer = OURS[name]
    (ids,) = tokenizer.encode([LITERAL])
    assert ids.min() >= RESERVED
    assert ids.max() < tokenizer.vocab
    assert tokenizer.decode(ids) == LITERAL
    assert tokenizer.decode([BOS, *ids, MASK, EOS]) == LITERAL
    assert tokenizer.decode([BOS, *ids, MASK, EOS], show_specials=True) == f"<s>{LITERAL}<mask></s>"


@pytest.mark.parametrize("name", ["bpe", "bytes"])
@given(text=st.text())
def test_byte_level_tokenizers_return_any_text(name, text):
    (ids,) = OURS[name].encode([text])
    assert OURS[name].decode(ids) == text
    if name == "bytes":
        assert ids.tolist() == [RESERVED + byte for byte in text.encode()]


def test_bpe_merges_is_deterministic_and_as_large_as_asked():
    assert BPE.vocab == 340
    assert len(BPE.encode(["jumps"])[0]) < len("jumps")
    assert train_bpe(iter(TEXTS), 340).hash == BPE.hash
    assert train_bpe(TEXTS, 339).hash != BPE.hash
    with pytest.raises(UserError, match=r"model.vocab: got 271, expected at least 272"):
        train_bpe(TEXTS, 271)


DIGITS = train_bpe(TEXTS, 300, "digits")


@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("  \n\n01aé\u0301")))
def test_the_digits_split_returns_the_text_in_nfc_without_spaces_before_line_breaks(text):
    (ids,) = DIGITS.encode([text])
    composed = unicodedata.normalize("NFC", f" {text}")[1:] if text else ""
    assert DIGITS.decode(ids) == re.sub(" *\n", "\n", composed)


def test_the_digits_split_cuts_every_digit_and_gives_words_one_token_anywhere():
    def cut(text):
        return [DIGITS.decode([id]) for id in DIGITS.encode([text])[0]]

    assert DIGITS.vocab == 300
    assert cut("no. 2026")[-4:] == ["2", "0", "2", "6"]
    texts = [line for line in ("1234 12", "x1 2y", "Ⅻ½") for line in (line, f"\n{line}")]
    for text in texts * 3:
        trained = train_bpe([text * 40], 300, "digits")
        pieces = [trained.decode([id]) for id in trained.encode([text])[0]]
        assert all(sum(unicodedata.category(letter)[0] == "N" for letter in piece) <= 1 for piece in pieces)
    first, inside, line = DIGITS.encode(["jumps", "fox jumps", "fox\njumps"])
    assert inside.tolist()[-len(first) :] == line.tolist()[-len(first) :] == first.tolist()


def test_the_digits_split_encodes_a_text_in_pieces_as_in_one():
    text = "a line of it;  \n  next, no. 12\n" * (3 * PIECE // 30)
    parts = list(pieces(text))
    assert len(parts) > 2
    assert np.concatenate(DIGITS.encode(parts)).tolist() == DIGITS.encode([text])[0].tolist()


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match=r"data\.tokenizer_split: got 'digit', expected gpt2 or digits"):
        build("bpe", TEXTS, 300, "digit")


def test_chars_knows_its_own_characters_only():
    tokenizer = train_chars(["ba", "cab"])
    assert tokenizer.vocab == RESERVED + 3
    assert tokenizer.encode(["abc", "aéé"])[0].tolist() == [16, 17, 18]
    assert tokenizer.encode(["aéé"])[0].tolist() == [16, UNK, UNK]


def test_saved_and_loaded(tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.hash, loaded.vocab) == (BPE.hash, BPE.vocab)
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.encode("red<mask>").ids == [*BPE.encode(["red"])[0], MASK]
    assert from_file(tmp_path).hash == BPE.hash  # our layout already: unchanged


@given(lengths=st.lists(st.integers(0, 3 * PIECE // 2), min_size=1, max_size=3))
def test_pieces_join_to_the_text(lengths):
    text = "\n".join("x" * length for length in lengths)
    assert "".join(pieces(text)) == text
    assert all(len(piece) <= PIECE for piece in pieces(text))


# ---------------------------------------------------------------- foreign tokenizers


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def foreign_bpe():
    """A GPT-like one, whose specials have our names in another order."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    specials = ["<s>", "<unk>", "<pad>", "<mask>"]
    trained(tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False))
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens(["naïve"])
    tokenizer.enable_truncation(8)
    return tokenizer


def foreign_wordpiece():
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return trained(
        tokenizer, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    )


def foreign_wordlevel():
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return trained(
        tokenizer, trainers.WordLevelTrainer(vocab_size=50, special_tokens=["<unk>", "<s>"], show_progress=False)
    )


def foreign_unigram():
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=specials, unk_token="<unk>", show_progress=False)
    return trained(tokenizer, trainer)


@pytest.mark.parametrize("make", [foreign_bpe, foreign_wordpiece, foreign_wordlevel, foreign_unigram])
def test_relabelled_tokenizer_cuts_the_same_pieces(tmp_path, make):
    foreign = make()
    foreign.save(str(tmp_path / "tokenizer.json"))
    ours = from_file(tmp_path)
    foreign.no_truncation()
    texts = [*TEXTS, "unknown: ☃ and Ω"]
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        original = foreign.encode(text, add_special_tokens=False).ids
        assert ids.tolist() == [id + RESERVED for id in original]
        assert ours.decode(ids) == foreign.decode(original)
    assert ours.vocab == foreign.get_vocab_size() + RESERVED
    assert ours.encode([LITERAL])[0].min() >= RESERVED


def test_relabelled_tokenizer_is_a_tokenizer_json_of_our_layout(tmp_path):
    definition = relabel(foreign_bpe())
    plain = tokenizers.Tokenizer.from_str(definition)
    assert [plain.id_to_token(id) for id in range(RESERVED)] == RESERVED_TOKENS
    assert plain.id_to_token(RESERVED) == "<foreign <s>>"
    assert plain.encode("<mask>").ids == [MASK]
    assert json.loads(definition)["post_processor"] is None
    Tokenizer(definition).save(tmp_path / "tokenizer.json")
    assert from_file(tmp_path / "tokenizer.json").hash == Tokenizer(definition).hash


RELEASED = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", *(f"<special_{i}>" for i in range(11))]  # of dual-lm-470m
BY_ID = [3, 1, 2, 4, 0, *range(5, 16)]


def foreign_with_reserved_ids(kind, specials=RELEASED):
    if kind == "bpe":
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", ignore_merges=True))
        SPLITS["digits"](tokenizer)
        return trained(tokenizer, trainers.BpeTrainer(vocab_size=320, special_tokens=specials, show_progress=False))
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=specials, unk_token="<unk>", show_progress=False)
    return trained(tokenizer, trainer)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_with_reserved_ids_of_its_own_needs_no_more(tmp_path, kind):
    foreign = foreign_with_reserved_ids(kind)
    foreign.save(str(tmp_path / "tokenizer.json"))
    ours = from_file(tmp_path)
    assert own_reserved(foreign) == BY_ID
    assert ours.vocab == foreign.get_vocab_size()
    for text in [*TEXTS, "unknown: ☃ and Ω"]:
        original = foreign.encode(text, add_special_tokens=False).ids
        (ids,) = ours.encode([text])
        assert ids.tolist() == [BY_ID.index(id) if id < RESERVED else id for id in original]
        assert ours.decode(ids) == foreign.decode(original)
    assert not {PAD, BOS, EOS, MASK} & set(ours.encode([LITERAL])[0].tolist())
    shown = ours.decode([PAD, BOS, EOS, MASK, UNK, 5], show_specials=True)
    assert shown.replace(" ", "") == "<pad><s></s><mask><unk><special_0>"


@pytest.mark.parametrize("missing", ["<mask>", "<special_10>"])
def test_reserved_ids_that_lack_one_are_not_ours(missing):
    foreign = foreign_with_reserved_ids("bpe", [name for name in RELEASED if name != missing])
    assert own_reserved(foreign) is None
    assert Tokenizer(relabel(foreign)).vocab == foreign.get_vocab_size() + RESERVED


def test_a_bad_path_or_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"bpee: no such tokenizer, expected bpe, bytes, chars, or the path"):
        build("bpee", [], 300)
    with pytest.raises(UserError, match=r"tokenizer\.json: no such tokenizer"):
        from_file(tmp_path)
    for content in (b"{", b"{}", b"\xff"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.json: .*not a tokenizer\.json"):
            from_file(tmp_path / "bad.json")
    foreign_unigram().save(str(tmp_path / "foreign.json"))
    with pytest.raises(UserError, match=r"foreign\.json: not our layout"):
        Tokenizer.load(tmp_path / "foreign.json")
