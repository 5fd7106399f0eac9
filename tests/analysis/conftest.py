"""One analysed sweep, shared by the tests of its presentation."""

from __future__ import annotations

import pandas as pd
import pytest

from dualm.analysis.analyze import SweepAnalysis, analyze_sweep
from tests.analysis.synthetic import results


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    return results()


@pytest.fixture(scope="session")
def analysis(table: pd.DataFrame) -> SweepAnalysis:
    return analyze_sweep(table)
