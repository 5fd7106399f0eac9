"""The learned density follows the loss, is the same for every world, and survives an interruption."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

from dualm.config import ObjectiveConfig
from dualm.objectives.time import histogram
from dualm.training.learned_time import LearnedTime, learnable_shares
from tests.conftest import Tiny
from tests.training.test_resume import kill_after_step

KEYS = ("train.steps=12", "objective.alpha=0", "objective.time=learned", "objective.time_refresh=3")


def test_mass_goes_where_there_is_error() -> None:
    shares = learnable_shares(np.array([2.0, 3.0, np.nan, 5.0]), floor=None)
    assert shares.sum() == pytest.approx(1)
    errors = np.array([0.0, 1.0, 10 / 3 - 2, 3.0])  # above the least; what was not seen has the mean loss
    assert shares == pytest.approx(0.9 * errors / errors.sum() + 0.1 / 4)
    assert learnable_shares(np.array([2.0, 3.0]), floor=1.0) == pytest.approx([0.9 / 3 + 0.05, 1.8 / 3 + 0.05])
    assert learnable_shares(np.array([2.0, 3.0]), floor=9.0).tolist() == [0.5, 0.5]


def test_in_discrete_time_the_learned_density_has_so_many_rates() -> None:
    learned = LearnedTime(ObjectiveConfig(time="learned", time_steps=4), torch.device("cpu"))
    learned.shares = np.arange(1.0, 21.0) / 210
    rates = {learned.density.quantile(u) for u in np.linspace(0, 1, 50, endpoint=False)}
    assert sorted(rates) == [histogram(learned.shares.tolist()).inverse(i / 4) for i in (1, 2, 3, 4)]


def test_a_schedule_may_begin_without_masked_diffusion(tiny: Tiny) -> None:
    """Three refreshes see no loss at any rate before the first window is masked."""
    keys = [key for key in KEYS if not key.startswith("objective.alpha")]
    tiny.train(*keys, "objective.alpha=[[0,1],[0.9,1],[1,0]]", "checkpoint.every=0")
    assert [step for step, row in enumerate(tiny.rows(), 1) if "train/md_loss" in row][:1] > [9]


def test_it_changes_training_and_survives_a_kill(tiny: Tiny) -> None:
    tiny.train(*KEYS, run="whole")
    tiny.train(*KEYS, "objective.time_refresh=99", run="fixed")
    whole, fixed = tiny.losses("whole"), tiny.losses("fixed")
    assert [whole[step] == fixed[step] for step in range(1, 13)] == [step <= 3 for step in range(1, 13)]
    for step in (5, 9):
        kill_after_step(tiny, tiny.start(*KEYS), step, signal.SIGKILL)
    assert "resuming from" in tiny.train(*KEYS).stderr
    assert tiny.losses() == whole  # to the last bit


def test_two_ranks_learn_the_density_of_one(tiny: Tiny) -> None:
    tiny.train(*KEYS, "checkpoint.every=0", run="one")
    tiny.train(*KEYS, "checkpoint.every=0", world=2)
    assert tiny.losses() == pytest.approx(tiny.losses("one"), abs=2e-5)
