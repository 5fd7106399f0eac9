"""Short labels of quantities, for run names, tables and figures."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from functools import cache
from typing import Any


def count_label(count: float) -> str:
    """`415M`: a number of parameters or tokens with three significant digits and a unit."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def flops_label(flops: float, digits: int = 3) -> str:
    """`2.5e12`."""
    return re.sub(r"e\+?0*", "e", f"{flops:.{digits}g}")


@cache
def alpha_label(alpha: float) -> str:
    """`1/256` instead of 0.00390625 where the denominator is a power of two, otherwise three significant digits."""
    fraction = Fraction(alpha).limit_denominator(4096)
    exact = math.isclose(float(fraction), alpha, rel_tol=1e-6) and fraction.denominator.bit_count() == 1
    return str(fraction) if exact else f"{alpha:.3g}"


def as_text(value: Any) -> str:
    """A recipe value as text: strings unchanged, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
