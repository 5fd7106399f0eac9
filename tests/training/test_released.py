"""The keys of recipes/dual-470m-released.yaml train together, at every ZeRO stage, into a model that is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

import dualm
from dualm.config import Recipe, flatten, load
from dualm.model import size
from tests.conftest import Tiny

RECIPE = Path(__file__).parents[2] / "recipes/dual-470m-released.yaml"
TAKEN = ("objective.", "optimizer.", "model.head", "model.init", "model.norm_eps")


def keys() -> list[str]:
    """What differs from the defaults, but for the size and the ratio, which hardly has masked diffusion."""
    defaults = flatten(Recipe())
    changed = {name: value for name, value in flatten(load(RECIPE)).items() if value != defaults[name]}
    values = {name: value for name, value in changed.items() if name.startswith(TAKEN) and name != "objective.alpha"}
    assert len(values) >= 13
    return [f"{name}={value}" for name, value in values.items()]


def test_it_has_the_size_of_the_released_model() -> None:
    assert size.parameter_count(load(RECIPE).model) == 468_700_160


def test_the_released_keys_train_at_every_stage_and_are_read_back(tiny: Tiny) -> None:
    tiny.train(*keys())
    expected = tiny.losses()
    assert expected[6] < expected[1] - 0.5
    tiny.train(*keys(), "train.zero_stage=3", run="sharded", world=2)
    assert tiny.losses("sharded") == pytest.approx(expected, abs=2e-4)
    state = load_file(tiny.folder / "run/checkpoints/step-000006/model.safetensors")
    assert state["lm_head.bias"].abs().max() > 0
    model = dualm.load(tiny.folder / "run")
    assert model.model.config.head == "mlp"
    for mode in ("ar", "pll"):
        (score,) = model.score([("the old sea", " sang")], mode=mode)
        assert -100 < score.log_likelihood < 0
