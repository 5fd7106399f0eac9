"""Promise 4: the losses are those of the golden files, whatever was refactored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import CASES, TOLERANCE, computed, expected, largest_difference


@pytest.mark.parametrize(("objective", "optimizer"), CASES)
def test_losses_are_the_golden_ones(objective: str, optimizer: str, tmp_path: Path) -> None:
    difference = largest_difference(computed(objective, optimizer, tmp_path), expected(objective, optimizer))
    assert difference <= TOLERANCE[optimizer]
