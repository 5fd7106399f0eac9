"""`dualm analyze`, from the results table to the report: 10 s for 50 runs, 30 s for 2,000.

The tables are those of the tests. 2,000 runs stand once as 50 ratios with five seeds each and once as 250 ratios with one seed.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.rows import Row, seconds
from dualm.commands.analyze import analyze_into
from tests.analysis.synthetic import POINTS, point, results


def table(ratios: int, seeds: int, runs: int = 2000) -> pd.DataFrame:
    """`runs` runs of 16 validations, all finished, at 8 R."""
    places = islice(product(POINTS, np.linspace(0, 1, ratios), range(seeds)), runs)
    rng = np.random.default_rng(0)
    return pd.concat([point(f"R{R}-a{a:.5g}-s{s}", R, float(a), 16, rng).assign(seed=s) for R, a, s in places])


def rows(short: bool) -> Iterator[Row]:
    yield measured("50 runs", results(), 10, 1 if short else 5)
    if not short:
        yield measured("2,000 runs, 400 points", table(50, 5), 30, 3)
        yield measured("2,000 runs, 2,000 points", table(250, 1), 30, 3)


def measured(name: str, runs: pd.DataFrame, limit: float, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "results.csv")
        runs.to_csv(path, index=False)
        took = [seconds(lambda: analyze_into(path, Path(folder, "analysis"), 0, [])) for _ in range(rounds)]
    return Row.of(f"dualm analyze, {name}: seconds", took, limit, at_least=False, note="tables, figures and report")
