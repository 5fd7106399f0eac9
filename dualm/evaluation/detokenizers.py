"""Undoing the tokenization that some corpora come with: spaces before punctuation, `@-@` for a hyphen, and so on.

A detokenizer is a list of regular expressions, each with what takes its place, applied in their order. Which they are was
read in MDLM's code (kuleshov-group/mdlm, dataloader.py), so that texts become the same as there.
"""

from __future__ import annotations

import re

Rules = tuple[tuple[str, str], ...]


def detokenized(text: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _inside(opening: str, closing: str) -> tuple[str, str]:
    """No white space just inside a pair of brackets or quotation marks."""
    left, right = re.escape(opening), re.escape(closing)
    return rf"{left}\s*([^{right}]*?)\s*{right}", rf"{opening}\1{closing}"


def _before(mark: str) -> tuple[str, str]:
    """No space before a punctuation mark that stands alone."""
    return f" {re.escape(mark)} ", f"{mark} "


WIKITEXT: Rules = (
    ("s '", "s'"),
    *((f" @{re.escape(mark)}@ ", mark) for mark in "-,."),
    *map(_before, ":;.!?,"),
    *(_inside(*pair) for pair in ("()", "[]", "{}", '""', "''")),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
PTB: Rules = (
    (" 's", "'s"),
    ("s ' ", "s' "),
    (" n't", "n't"),
    (" \n ", "\n"),
    (r"\\/", "/"),
    (" N(?= )", " 1"),  # numbers are N there
    (r"\$ 1", "$1"),
    ("# 1", "#1"),
    ("<unk>", "?"),
)
LM1B: Rules = (
    ("(https?) : / / ", r"\1://"),
    (r" '(\w+)", r"'\1"),
    (r" (\w+) \. ", r" \1. "),
    (r" (\w+) \.$", r" \1."),
    (r" \? ", "? "),
    (r" \?$", "?"),
    (" ! ", "! "),
    (" !$", "!"),
    *map(_before, ",:;"),
    (" / ", "/"),
    ('" ([^"]+) "', r'"\1"'),
    ("' ([^']+) '", r"'\1'"),
    (r"\( ([^()]+) \)", r"(\1)"),
    (r"\[ ([^\[\]]+) \]", r"[\1]"),
    (r"([$£]) ", r"\1"),
)
PAPERS: Rules = (*WIKITEXT, *LM1B)
LAMBADA: Rules = (("[“”]", '"'), (r"\s+\Z", ""), (r"\A\s*", "\n"))
