"""What end-to-end tests share: a small corpus, a tiny recipe, and how it is trained."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if os.environ.get("DUALM_TEST_GPU") != "1":  # before torch and numpy read how many threads they may have
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import hypothesis
import pytest
import torch

from dualm.config import ModelConfig
from dualm.model.transformer import Transformer
from tests.corpus import write_corpus
from tests.forked import Forked
from tests.launched import LAUNCHERS, Launched

hypothesis.settings.register_profile("dualm", deadline=None)  # a busy machine is no defect
hypothesis.settings.load_profile("dualm")


def random_model(seed: int, spread: float, **config: int) -> Transformer:
    """A small model with matrices drawn from N(0, spread): what it predicts depends on all it sees."""
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(hidden=16, heads=2, ffn=24, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, spread)
    return model


TINY = """
data:
  source: text
  documents: paragraph
  tokenizer: bytes
model: {layers: 2, hidden: 32, heads: 2, ffn: 48, context: 32, vocab: 272}
objective: {alpha: 0.5, prefix_fraction: 0.5}
optimizer: {lr: 1e-2}
train: {steps: 6, global_batch: 8, micro_batch: 2, log_every: 1, zero_stage: 0}
validate: {every: 0, windows: 8, batch: 4, sample_tokens: 8}
checkpoint: {every: 2}
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of paragraphs made of a few words, so that there is something to learn."""
    path = tmp_path_factory.mktemp("corpus") / "sea.txt"
    write_corpus(path)
    return path


@dataclass(frozen=True)
class Tiny:
    """A tiny recipe over `corpus`, trained in forked processes or under one of the LAUNCHERS."""

    recipe: Path
    folder: Path

    def arguments(self, *overrides: str, run: str = "run") -> list[str]:
        return ["train", str(self.recipe), f"run.dir={self.folder / run}", *overrides]

    def start(self, *overrides: str, run: str = "run", launcher: str = "forked", world: int = 1) -> Forked | Launched:
        arguments = self.arguments(*overrides, run=run)
        if launcher == "forked":
            return Forked(arguments, self.folder, world=world)
        return Launched([*LAUNCHERS[launcher](world), *arguments], self.folder)

    def train(self, *overrides: str, check: bool = True, **how: Any) -> subprocess.CompletedProcess[str]:
        done = self.start(*overrides, **how).finish()
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done

    def rows(self, run: str = "run") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def losses(self, run: str = "run") -> dict[int, float]:
        return {row["step"]: row["train/loss"] for row in self.rows(run) if "train/loss" in row}


@pytest.fixture(scope="session")
def tiny_in(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Tiny]:
    """Makes a `Tiny` in a folder; all of them share one prepared corpus."""
    prepared = tmp_path_factory.mktemp("prepared") / "sea"

    def make(folder: Path) -> Tiny:
        recipe = folder / "tiny.yaml"
        recipe.write_text(TINY.replace("data:\n", f"data:\n  train: [{corpus}]\n  dir: {prepared}\n"))
        return Tiny(recipe, folder)

    return make


@pytest.fixture
def tiny(tiny_in: Callable[[Path], Tiny], tmp_path: Path) -> Tiny:
    return tiny_in(tmp_path)
