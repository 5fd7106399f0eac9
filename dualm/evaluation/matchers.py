"""When a response counts as the expected one: (response, expected) -> bool, in a registry by name."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from string import punctuation

from dualm.registry import Registry

FINAL = "####"  # what GSM8K puts before the number that counts


def exact(response: str, expected: str) -> bool:
    """The same text, apart from white space around it."""
    return response.strip() == expected.strip()


def begins(response: str, expected: str) -> bool:
    """Begins with what is expected, whatever the case and its last full stop (Berglund et al. 2023)."""
    return response.strip().lower().startswith(expected.strip().rstrip(punctuation).lower())


def final_answer(response: str, expected: str) -> bool:
    """The same after the last `####`, numbers compared as numbers (GSM8K: Cobbe et al. 2021)."""
    return FINAL in response and _value(response) == _value(expected)


def _value(text: str) -> Decimal | str:
    final = "".join(text.rpartition(FINAL)[2].split()).replace(",", "")
    try:
        return Decimal(final)
    except InvalidOperation:
        return final


MATCHERS: Registry[Callable[[str, str], bool]] = Registry(
    "--match", {"exact": exact, "begins": begins, "final_answer": final_answer}
)
