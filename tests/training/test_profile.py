"""A profile of early steps changes no loss, and training goes on after it."""

from __future__ import annotations

import json

from tests.conftest import Tiny


def test_a_profile_is_written_and_training_goes_on(tiny: Tiny) -> None:
    said = tiny.train("train.steps=10", "checkpoint.every=0", "--profile").stderr
    assert "profile of 3 steps" in " ".join(said.split())
    steps = json.loads((tiny.folder / "run/profile/trace.json").read_text())["traceEvents"]
    assert sum(str(event.get("name")).startswith("ProfilerStep#") for event in steps if event.get("ph") == "X") >= 3
    assert "aten::mm" in (tiny.folder / "run/profile/operators.txt").read_text()
    tiny.train("train.steps=10", "checkpoint.every=0", run="unprofiled")
    assert tiny.losses() == tiny.losses("unprofiled")
    assert len(tiny.losses()) == 10
