"""Text <-> token ids. Every tokenizer has the same first 16 ids.

    0 <pad>   1 <s>   2 </s>   3 <mask>   4 <unk>   5…15 <reserved-5>…   16… the tokens of text

A tokenizer is its tokenizer.json (the format of Hugging Face `tokenizers`), so its hash is a hash of that.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from dualm.errors import UserError
from dualm.registry import Registry

PAD, BOS, EOS, MASK, UNK = range(5)
RESERVED = 16
PIECE = 2**18  # characters
TRAINING_CHARACTERS = 500_000_000  # as much text as a tokenizer is trained on; more changes it little
RESERVED_TOKENS = ["<pad>", "<s>", "</s>", "<mask>", "<unk>", *(f"<reserved-{i}>" for i in range(5, RESERVED))]


class Tokenizer:
    """A tokenizer.json in the layout above. Raises ValueError where `definition` is not one."""

    def __init__(self, definition: str) -> None:
        self._definition = definition
        self._tokenizer = _parse(definition)
        if not follows_layout(self._tokenizer):
            raise ValueError(f"not our layout: ids 0…{RESERVED - 1} are not the reserved tokens")
        self._tokenizer.encode_special_tokens = True  # "<s>" in a text is three characters, not a special id
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @functools.cached_property
    def vocab(self) -> int:
        """Number of ids, the reserved ones included."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the canonical JSON of the definition, less its post-processor: that one decides no id here."""
        definition = json.loads(self._definition) | {"post_processor": None}
        canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids [length] (int64) of each text, in parallel. No special tokens are added, and none is recognised."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: Iterable[int], show_specials: bool = False) -> str:
        """The text of some ids; special tokens are left out unless asked for."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=not show_specials)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer.json; `transformers` and `tokenizers` read it as well."""
        Path(path).write_text(self._definition, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a tokenizer.json in our layout, or the folder that holds it. Raises UserError naming the file."""
        path = definition_file(path)
        try:
            return cls(_read(path))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None


# ---------------------------------------------------------------- builders


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most PIECE characters, cut after a line break where there is one.

    The tokenizer library keeps some hundred bytes for each character it works on, so whatever may be large goes
    through it in pieces.
    """
    start = 0
    while len(text) - start > PIECE:
        stop = text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
        yield text[start:stop]
        start = stop
    yield text[start:]


def gpt2_split(bpe: tokenizers.Tokenizer) -> None:
    """Words with the space before them, runs of digits, of punctuation, of white space (Radford et al. 2019)."""
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()


UPPER, LOWER, LEAD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"
WORDS = (rf"{LEAD}{UPPER}*{LOWER}+", rf"{LEAD}{UPPER}+{LOWER}*")  # a new word begins at a capital behind small letters
DIGIT, PUNCTUATION, SPACE = r" ?\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", (r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+")


def digits_split(bpe: tokenizers.Tokenizer) -> None:
    """Each digit by itself; NFC; a space in front of the text and of every line, none before a line's end.

    So a word is the same token wherever it stands in a line. The text comes back in NFC and without spaces before line breaks.

    Source: the released code of dual language models (Samuel and Charpentier 2025), tokenization/init_tokenizer.py. There a space
    follows a line break at the end, too, where its texts, which are stripped, have none; so a text in `pieces` has the same tokens.
    """
    bpe.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend(" "),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\n(?!\z)"), "\n "),
            normalizers.Replace(Regex(r" *\n"), "\n"),
        ]
    )
    pattern = Regex("|".join((*WORDS, DIGIT, PUNCTUATION, *SPACE)))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), byte_level])
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0), decoders.Replace("\n ", "\n")])


# By `data.tokenizer_split`: how text is normalised and cut before pieces are merged, given to a tokenizer to be trained.
SPLITS: Registry[Callable[[tokenizers.Tokenizer], None]] = Registry(
    "data.tokenizer_split", {"gpt2": gpt2_split, "digits": digits_split}
)


def train_bpe(texts: Iterable[str], vocab: int, split: str = "gpt2") -> Tokenizer:
    """Byte-level BPE of at most `vocab` ids (fewer if the texts have no more to merge). Any text can be encoded."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab < RESERVED + len(alphabet):
        raise UserError(
            f"model.vocab: got {vocab}, expected at least {RESERVED + len(alphabet)} for data.tokenizer: bpe"
        )
    bpe = tokenizers.Tokenizer(models.BPE())
    SPLITS.choose(split)(bpe)
    bpe.train_from_iterator(
        _front((piece for text in texts for piece in pieces(text)), TRAINING_CHARACTERS),
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=_reserved(),  # pyright: ignore[reportArgumentType]
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return Tokenizer(bpe.to_str())


def byte_tokenizer() -> Tokenizer:
    """Byte b of the UTF-8 text has id 16 + b."""
    letters = _byte_letters()
    vocab = _numbered([*RESERVED_TOKENS, *(letters[byte] for byte in range(256))])
    byte_level = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens(_reserved())
    return Tokenizer(byte_level.to_str())


def train_chars(texts: Iterable[str]) -> Tokenizer:
    """One id for each character of the texts, in code point order; any other becomes `<unk>`."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocab = _numbered([*RESERVED_TOKENS, *sorted(characters)])
    chars = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=RESERVED_TOKENS[UNK]))
    chars.decoder = decoders.Fuse()
    chars.add_special_tokens(_reserved())
    return Tokenizer(chars.to_str())


def from_file(path: str | os.PathLike[str]) -> Tokenizer:
    """Any tokenizer.json, or local Hugging Face folder with one; relabelled to our layout if it has another.

    Raises:
        UserError: no such file, or not one that can be relabelled.
    """
    path = definition_file(path)
    definition = _read(path)
    try:
        foreign = _parse(definition)
        return Tokenizer(definition if follows_layout(foreign) else relabel(foreign))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def definition_file(path: str | os.PathLike[str]) -> Path:
    """The tokenizer.json that `path` means: itself, or the one in that folder. Raises UserError if there is none."""
    path = Path(path).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer, expected bpe, bytes, chars, or the path of a tokenizer.json")
    return path


BUILDERS: dict[str, Callable[[Iterable[str], int, str], Tokenizer]] = {
    "bpe": train_bpe,
    "bytes": lambda texts, vocab, split: byte_tokenizer(),
    "chars": lambda texts, vocab, split: train_chars(texts),
}


def build(name: str, texts: Iterable[str], vocab: int, split: str = "gpt2") -> Tokenizer:
    """The tokenizer a recipe names: one of BUILDERS (made from `texts`, with `vocab` ids and a `split` if trained), or a path."""
    return BUILDERS[name](texts, vocab, split) if name in BUILDERS else from_file(name)


# ---------------------------------------------------------------- relabelling


def follows_layout(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the first four ids are ours and the rest of the reserved ones stand for no text."""
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ours = all(tokenizer.id_to_token(id) == RESERVED_TOKENS[id] for id in (PAD, BOS, EOS, MASK))
    return ours and all(id in special or tokenizer.id_to_token(id) is None for id in range(RESERVED))


def own_reserved(foreign: tokenizers.Tokenizer) -> list[int] | None:
    """Which of its ids stand for our 16, `[16]`, if its first 16 are special tokens with `<pad>` to `<unk>` among them; else None.

    Those of dual language models and GPT-BERT are such: only `<pad>`, `<mask>` and `<unk>` change places.
    """
    added = foreign.get_added_tokens_decoder()
    ids = {added[id].content: id for id in range(RESERVED) if id in added and added[id].special}
    named = RESERVED_TOKENS[: UNK + 1]
    if len(ids) < RESERVED or not ids.keys() >= set(named):
        return None
    return [ids[name] for name in named] + sorted(id for name, id in ids.items() if name not in named)


def relabel(foreign: tokenizers.Tokenizer) -> str:
    """The definition of a tokenizer that cuts the same pieces, with every id 16 higher and ours in front.

    A foreign token that has the name of one of ours gets another name, and the post-processor goes, as `<s>` and
    `</s>` are added where documents are packed. One with `own_reserved` ids keeps its other ids and all names.
    Raises ValueError where the ids do not come out so.
    """
    definition, own = json.loads(foreign.to_str()), own_reserved(foreign)
    place = {id: place for place, id in enumerate(own or [])}
    moved = {
        token: (token, place.get(id, id)) if own else (_renamed(token), id + RESERVED)
        for token, id in foreign.get_vocab().items()
    }
    model, front = definition["model"], [] if own else RESERVED_TOKENS
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = _numbered(front) | dict(moved[token] for token in model["vocab"])
    elif isinstance(model.get("vocab"), list):
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        kept = sorted([moved[token][1], [moved[token][0], score]] for token, score in model["vocab"])
        model["vocab"] = [[token, 0.0] for token in front] + [entry for _, entry in kept]
        model["unk_id"] = unknown and moved[unknown][1]
    else:
        raise ValueError(f"a tokenizer of type {model.get('type')} cannot be relabelled")
    if model.get("unk_token"):
        model["unk_token"] = moved.get(model["unk_token"], (_renamed(model["unk_token"]), 0))[0]
    entries = [_moved_entry(token, *moved[token["content"]]) for token in definition["added_tokens"]]
    definition["added_tokens"] = sorted([*_reserved_entries()[: len(front)], *entries], key=lambda entry: entry["id"])
    definition["pre_tokenizer"] = _keeping_ours_apart(definition["pre_tokenizer"])
    definition["post_processor"] = None
    _check_moved(dict(moved.values()), _parse(json.dumps(definition)).get_vocab())
    return json.dumps(definition, ensure_ascii=False)


def _renamed(token: str) -> str:
    return f"<foreign {token}>" if token in RESERVED_TOKENS else token


def _reserved_entries() -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": id, "content": token, **flags} for id, token in enumerate(RESERVED_TOKENS)]


def _moved_entry(token: dict[str, Any], name: str, id: int) -> dict[str, Any]:
    return token | {"id": id, "content": name, "special": token["special"] or name != token["content"]}


def _keeping_ours_apart(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any]:
    """Cut "<s>" in a text after its "<": models that look whole words up would find our special token."""
    pattern = "<(?=(?:" + "|".join(token[1:] for token in RESERVED_TOKENS) + "))"
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "MergedWithPrevious", "invert": False}
    return {"type": "Sequence", "pretokenizers": [pre_tokenizer, cut]} if pre_tokenizer else cut


def _check_moved(expected: dict[str, int], got: dict[str, int]) -> None:
    wrong = [token for token, id in expected.items() if got.get(token) != id]
    if wrong:
        raise ValueError(f"cannot be relabelled: the id of {wrong[0]!r} is not fixed by its definition")


# ---------------------------------------------------------------- small parts


def _front(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _reserved() -> list[AddedToken | str]:
    return [AddedToken(token, special=True, normalized=False) for token in RESERVED_TOKENS]


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: id for id, token in enumerate(tokens)}


def _byte_letters() -> dict[int, str]:
    """The visible character by which byte-level tokenizers write each byte (Radford et al. 2019)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def _parse(definition: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"not a tokenizer.json: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a tokenizer.json: not UTF-8") from None
