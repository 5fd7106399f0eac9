"""The moving average of the weights is the one its formula gives, at every ZeRO stage, and it is what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dualm import config
from dualm.data.shards import Shards
from dualm.data.windows import open_windows
from dualm.evaluation.validation import ValidationSet, validate
from dualm.model import Transformer, size, weights
from dualm.training.cost import memory
from dualm.training.ema import WeightAverage, decay_of
from tests.conftest import Tiny

DECAY = 0.3  # from update 3 on the smaller of the two: 2/11, 3/12, then 0.3
KEYS = ("model.dropout=0.1", "model.time_conditioning=8", "validate.every=2", "checkpoint.keep=9")


def folder(tiny: Tiny, run: str, step: int) -> Path:
    return tiny.folder / run / f"checkpoints/step-{step:06d}"


def averaged(trained: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """By the formula, from the weights before training and after each update."""
    average, *updates = trained
    for n, after in enumerate(updates, 1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * after[name] for name in average}
    return average


@pytest.fixture(scope="module")
def plain(tiny_in: Callable[[Path], Tiny], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A run without an average, with a checkpoint after every update."""
    tiny = tiny_in(tmp_path_factory.mktemp("plain"))
    tiny.train(*KEYS, "checkpoint.every=1")
    return tiny


@pytest.fixture(scope="module")
def expected(plain: Tiny) -> dict[str, Tensor]:
    recipe = config.load(plain.folder / "run/recipe.yaml")
    torch.manual_seed(recipe.run.seed)
    start = dict(Transformer(recipe.model).state_dict())
    return averaged([start, *(weights.load(folder(plain, "run", step))[1] for step in range(1, 7))], DECAY)


@pytest.mark.parametrize(("stage", "world"), [(0, 1), (1, 2), (2, 2), (3, 2)])
def test_the_average_is_that_of_the_trained_weights(
    plain: Tiny, expected: dict[str, Tensor], tiny: Tiny, stage: int, world: int
) -> None:
    tiny.train(*KEYS, f"optimizer.ema={DECAY}", f"train.zero_stage={stage}", world=world)
    # Averages are validated and saved along the way, and training goes on as if nothing had been.
    assert tiny.losses() == pytest.approx(plain.losses(), abs=2e-5)
    model, found = weights.load(folder(tiny, "run", 6))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    last = weights.load(folder(plain, "run", 6))[1]
    assert not torch.allclose(found[weights.HEAD], last[weights.HEAD], atol=1e-3)

    rows = {row["step"]: row for row in tiny.rows() if "valid/ar_nll" in row}
    assert validated(tiny, model, found) == pytest.approx(rows[6]["valid/ar_nll"], abs=1e-5)
    assert rows[6]["valid/ar_nll"] != pytest.approx(validated(tiny, model, last), abs=1e-3)


def test_the_plan_counts_its_memory() -> None:
    plain, with_average = (config.load(None, ["train.steps=1", f"optimizer.ema={ema}"]) for ema in (0, 0.9))
    for stage, share in ((0, 1), (2, 1), (3, 4)):
        more = memory(with_average, 4, stage) - memory(plain, 4, stage)
        assert more == pytest.approx(4 * size.parameter_count(plain.model) / share)


def validated(tiny: Tiny, model: config.ModelConfig, state: dict[str, Tensor]) -> float:
    """`valid/ar_nll` of these weights."""
    recipe = config.load(tiny.folder / "run/recipe.yaml")
    network = Transformer(model).eval()
    network.load_state_dict(state)
    assert recipe.data.dir is not None
    shards = Shards.open(Path(recipe.data.dir), verify=False)
    data = ValidationSet.of(recipe, open_windows(recipe.data, shards.valid, model.context), 1.0)
    with torch.no_grad():
        return validate(data, recipe, lambda batch: network(*batch.arguments).nll)["valid/ar_nll"]


class Engine(SimpleNamespace):
    """What the average asks of DeepSpeed."""

    def was_step_applied(self) -> bool:
        return self.applied

    def zero_optimization_stage(self) -> int:
        return 0

    def take(self, value: float, applied: bool = True) -> None:
        self.applied = applied
        self.global_steps += 1
        self.skipped_steps += not applied
        if applied:
            torch.nn.init.constant_(self.module.weight, value)


@pytest.fixture
def engine() -> Engine:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 0.0)
    return Engine(module=module, global_steps=0, skipped_steps=0)


def test_a_skipped_step_does_not_count(engine: Engine) -> None:
    average = WeightAverage(engine, 0.9)
    for value, applied in ((1.0, True), (9.0, False), (3.0, True)):
        engine.take(value, applied)
        average.update()
    d1, d2 = 2 / 11, 3 / 12
    with average.in_place():
        assert engine.module.weight.item() == pytest.approx(d2 * (1 - d1) * 1.0 + (1 - d2) * 3.0)
    assert engine.module.weight.item() == 3.0


def test_the_trained_weights_come_back_after_an_error(engine: Engine) -> None:
    average = WeightAverage(engine, 0.9)
    engine.take(5.0)

    def fail() -> None:
        with average.in_place():
            assert engine.module.weight.item() == 0.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert engine.module.weight.item() == 5.0


def test_without_decay_there_is_no_average(engine: Engine) -> None:
    average = WeightAverage(engine, 0.0)
    engine.take(5.0)
    average.update()
    assert not average.averages
    with average.in_place():
        assert engine.module.weight.item() == 5.0


def test_the_decay_rises_to_its_value() -> None:
    assert [decay_of(n, 0.9999) for n in (1, 8, 90)] == [2 / 11, 0.5, 0.91]
    assert decay_of(10**6, 0.9999) == 0.9999
