"""The examples of docs/extend.md: every one is run as it stands, and does what the page says."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualm.cli import main
from dualm.config import DataConfig, ObjectiveConfig, Recipe, load
from dualm.data.prepare import prepare
from dualm.data.shards import Shards
from dualm.data.tokenizer import BOS, MASK, byte_tokenizer
from dualm.data.windows import Window
from dualm.errors import UserError
from dualm.evaluation.readings import READINGS
from dualm.generation.samplers import SAMPLERS
from dualm.language_model import LanguageModel
from dualm.model.attention import AttentionMask
from dualm.objectives import OBJECTIVES
from dualm.objectives.masked_diffusion import MASK_COUNTS, MaskedDiffusion
from dualm.objectives.time import UNIFORM, density
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import open_passes
from dualm.registry import REGISTRIES
from tests.conftest import Tiny, random_model
from tests.docs.pages import ROOT, examples
from tests.forked import Forked

PAGE = "docs/extend.md"
EXAMPLES = examples(PAGE)

Row = dict[str, Any]


@pytest.fixture
def added() -> Iterator[Callable[[str], None]]:
    """Runs an example of the page; afterwards the registries are what they were."""
    tables: list[dict[str, Any]] = [*REGISTRIES.values(), READINGS]
    before = [dict(table) for table in tables]
    yield lambda name: exec(compile(EXAMPLES[name], f"{PAGE}: {name}", "exec"), {"__name__": "example"})
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def train(tiny: Tiny, names: str, *overrides: str, run: str = "run") -> str:
    """Four steps of the tiny recipe by a script that holds the examples; what it said."""
    script = tiny.folder / "mine.py"
    script.write_text("\n\n".join(EXAMPLES[name] for name in [*names.split(", "), "script"]))
    saves = "checkpoint={every: 0, before_cooldown: false}"
    keys = ("train.steps=4", "validate.sample_tokens=0", saves, f"run.dir={run}", *overrides)
    own = partial(runpy.run_path, str(script), run_name="__main__")
    done = Forked(["train", str(tiny.recipe), *keys], tiny.folder, main=own).finish()
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def training(tiny: Tiny, run: str = "run") -> list[Row]:
    return [row for row in tiny.rows(run) if "train/loss" in row]


def refusal(tiny: Tiny, override: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `dualm plan` says of a name that is in no registry."""
    assert main(["plan", str(tiny.recipe), override]) == 2
    return capsys.readouterr().err


def recipe_of(tiny: Tiny, *overrides: str) -> Recipe:
    return load(tiny.recipe, overrides)


# ---------------------------------------------------------------- the page


def test_every_registry_is_on_the_page() -> None:
    text = (ROOT / PAGE).read_text()
    assert [key for key in REGISTRIES if f"`{key}`" not in text] == []


# ---------------------------------------------------------------- training


def test_an_objective_trains_and_resumes(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("objective.ar=replaced_input", "objective.prefix_fraction=0", "checkpoint.every=2")
    train(tiny, "objective", *keys)
    whole = training(tiny)
    assert all(row["train/replaced_loss"] > 0 and "train/ar_loss" not in row for row in whole)
    shutil.rmtree(tiny.folder / "run/checkpoints/step-000004")
    assert "resuming from" in train(tiny, "objective", *keys)
    again = training(tiny)[len(whole) :]
    for before, after in zip(whole[2:], again, strict=True):
        for metric in ("step", "train/loss", "train/replaced_loss", "train/md_loss"):
            assert before[metric] == after[metric]  # to the last bit

    added("objective")
    expected = "objective.ar: got 'replaced', expected autoregressive or masked_input or mir or replaced_input"
    assert expected in refusal(tiny, "objective.ar=replaced", capsys)


def test_the_objective_replaces_inputs_and_nothing_else(added: Callable[[str], None]) -> None:
    added("objective")
    objective = OBJECTIVES["replaced_input"].build(ObjectiveConfig(input_mask=0.3), UNIFORM)
    window = Window(np.concatenate([[BOS], np.arange(20, 2020)]), given=1000)
    example = objective(window, 0.0, np.random.default_rng(0))
    replaced = np.flatnonzero(example.inputs != window.inputs)
    assert replaced.min() >= 1000
    assert len(replaced) / 1000 == pytest.approx(0.3, abs=0.05)
    assert set(example.inputs) <= set(window.tokens)
    assert (example.targets == window.tokens[1:]).all()


def test_density_weighting_and_mask_count_train_together(tiny: Tiny) -> None:
    choices = "objective={alpha: 0, time: triangular, weighting: between, mask_count: span}"
    train(tiny, "density, weighting, mask count", choices)
    losses = [row["train/md_loss"] for row in training(tiny)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_a_density_decides_the_mask_rates(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    added("density")
    for peak in (0.2, 0.9, 1.0):
        time = density(ObjectiveConfig(time="triangular", time_mean=peak))
        quantiles = (np.arange(1000) + 0.5) / 1000
        rates = [time.inverse(s) for s in quantiles]
        assert [time.cdf(t) for t in rates] == pytest.approx(quantiles)
        assert np.mean(rates) == pytest.approx(time.mean, abs=1e-3)
        steps = [(time.inverse(s + 1e-6) - time.inverse(s - 1e-6)) / 2e-6 for s in quantiles]
        assert [time.slope(t) for t in rates] == pytest.approx(steps, rel=1e-2)
    recipe = recipe_of(tiny, "train.steps=40", "objective.alpha=0", "objective.time=triangular", "data.repetitions=40")
    shards = Shards.open(prepare(recipe.data, recipe.model.vocab))
    batches = TrainingBatches.of(recipe, open_passes(recipe, shards))
    drawn = np.concatenate([batch.rates for step in range(40) for _, batch in batches.step(step)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)  # ceil(N t) / N lies a little above t
    assert np.abs(drawn - 0.5).mean() == pytest.approx(1 / 6, abs=0.03)  # uniform: 1/4
    assert "linear_sigma or polynomial or geometric or triangular" in refusal(tiny, "objective.time=x", capsys)


def test_antithetic_draws_come_in_pairs(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    added("draws")
    recipe = load(tiny.recipe, ["objective.draws=antithetic", "objective.alpha=0"])
    shards = Shards.open(prepare(recipe.data, recipe.model.vocab))
    _, u = TrainingBatches.of(recipe, open_passes(recipe, shards)).plan(3)
    assert np.sort(u.ravel()) + np.sort(u.ravel())[::-1] == pytest.approx(1)
    assert len(np.unique(u)) == u.size
    assert "stratified or iid or antithetic" in refusal(tiny, "objective.draws=x", capsys)


def test_a_weighting_stands_between_the_others(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    added("weighting")
    window = Window(np.concatenate([[BOS], np.arange(20, 52)]))
    summed = {
        name: MaskedDiffusion(weighting=name)(window, 0.8, np.random.default_rng(0)).weights.sum()
        for name in ("elbo", "between", "flat")
    }
    assert summed["between"] == pytest.approx((summed["elbo"] * summed["flat"]) ** 0.5)
    assert "elbo or flat or importance or between" in refusal(tiny, "objective.weighting=x", capsys)


def test_a_mask_count_hides_a_span(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    added("mask count")
    window, hidden = Window(np.concatenate([[BOS], np.arange(20, 36)])), np.zeros(16)
    for seed in range(500):
        example = MaskedDiffusion(mask_count="span")(window, seed / 500, np.random.default_rng(seed))
        masked = example.inputs == MASK
        assert masked.sum() == round(example.rate * 15)
        assert np.count_nonzero(np.diff(masked[1:], append=masked[1])) <= 2  # one run, once around
        hidden += masked
    assert hidden[0] == 0
    assert hidden[1:] / 500 == pytest.approx(0.53, abs=0.08)  # every position the same: the mean of ceil(15 t) / 15
    assert MASK_COUNTS["span"](np.array([], dtype=int), 0.5, UNIFORM, np.random.default_rng(0), 16)[0].size == 0
    assert "exact or bernoulli or rounded or span" in refusal(tiny, "objective.mask_count=x", capsys)


def test_an_optimizer_is_the_same_at_every_stage(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("optimizer.name=sgd", "optimizer.lr=0.5", "optimizer.clip=0.5")
    losses = []
    for stage in (0, 1):
        train(tiny, "optimizer", *keys, f"train.zero_stage={stage}", run=f"stage{stage}")
        rows = training(tiny, f"stage{stage}")
        assert all(row["train/gradient_norm"] > 0 for row in rows)
        losses.append([row["train/loss"] for row in rows])
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert losses[0][0] != losses[0][-1]
    added("optimizer")
    assert main(["plan", str(tiny.recipe), *keys]) == 0
    assert "adamw or muon or sgd" in refusal(tiny, "optimizer.name=x", capsys)


def test_a_schedule_sets_the_learning_rate(
    tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("schedule={name: linear, warmup: 2, final: 0.2}", "optimizer.lr=0.01")
    train(tiny, "schedule", *keys)
    assert [row["train/lr"] for row in training(tiny)] == pytest.approx([0.005, 0.01, 0.01, 0.006])
    added("schedule")
    assert "trapezoid or cosine or constant or linear" in refusal(tiny, "schedule.name=x", capsys)


# ---------------------------------------------------------------- data


def test_a_source_reads_its_files(tiny: Tiny, added: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f'row {i}, with "quotes", commas\nand lines: ' + "sea " * i for i in range(1, 60)]
    with (tiny.folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["number", "body"], *enumerate(texts)])
    (tiny.folder / "rows.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))

    train(tiny, "source", "data={source: csv, field: body, train: [rows.csv], dir: prepared}", "train.steps=2")
    assert len(training(tiny)) == 2
    added("source")
    keys = {"tokenizer": "bytes", "field": "body", "train": [str(tiny.folder / "rows.jsonl")]}
    jsonl = prepare(DataConfig(source="jsonl", dir=str(tiny.folder / "jsonl"), **keys), 272)
    for shard in ("train-00000.npy", "valid-00000.npy"):
        assert np.array_equal(np.load(tiny.folder / "prepared" / shard), np.load(jsonl / shard))

    keys = {"tokenizer": "bytes", "field": "text", "train": [str(tiny.folder / "rows.csv")]}
    with pytest.raises(UserError, match=r"rows\.csv, row 1: no field 'text' \(data\.field\), has number, body"):
        prepare(DataConfig(source="csv", dir=str(tiny.folder / "other"), **keys), 272)
    assert "parquet or huggingface or csv" in refusal(tiny, "data.source=x", capsys)


# ---------------------------------------------------------------- reading a model


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    tokenizer = byte_tokenizer()
    model = random_model(0, 0.5, layers=2, context=48, vocab=tokenizer.vocab).eval()
    return LanguageModel(model, tokenizer, shifted=True, folder=Path())


def test_a_sampler_fills_masks(model: LanguageModel, added: Callable[[str], None]) -> None:
    added("sampler")
    masked = "the <mask:6> sat on <mask:3>."
    filled = model.infill(masked, sampler="lowest_entropy", seed=1)
    assert filled.startswith("the ")
    assert " sat on " in filled
    assert "<mask" not in filled
    assert filled == model.infill(masked, sampler="lowest_entropy", seed=1)
    assert len(model.generate(["sea", ""], "diffusion", sampler="lowest_entropy", max_tokens=9, steps=3)) == 2
    with pytest.raises(UserError, match=r"sampler: got 'x', expected .* or lowest_entropy"):
        model.infill(masked, sampler="x")


def test_the_sampler_takes_the_lowest_entropies(added: Callable[[str], None]) -> None:
    from dualm.generation.samplers import Denoising, View

    added("sampler")
    entropy = np.array([0.7, 0.1, 2.0, 0.3])
    view = View(np.full(4, 0.5), entropy, np.array([]), left=2, steps=2, rng=np.random.default_rng(0))
    choice = SAMPLERS["lowest_entropy"].choose(view, Denoising("lowest_entropy"))
    assert choice.commit.tolist() == [1, 3]
    assert choice.remask.tolist() == []


@torch.no_grad()
def test_a_likelihood_mode_scores(model: LanguageModel, added: Callable[[str], None]) -> None:
    added("likelihood")
    (score,) = model.score([("the sea", "abcd")], mode="pll_pairs")
    context, continuation = model.encode_pair("the sea", "abcd")
    tokens, start = np.concatenate([context, continuation]), len(context)

    def log_p(masked: tuple[int, ...], token: int) -> float:
        inputs = tokens.copy()
        inputs[[start + place for place in masked]] = MASK
        logits = model.model.logits(torch.from_numpy(inputs[None]), AttentionMask("bidirectional"))[
            0, start + token - 1
        ]
        logits[MASK] = -torch.inf
        return float(logits.log_softmax(-1)[continuation[token]])

    inner = [(log_p((0, 1), 1) + log_p((1, 2), 1)) / 2, (log_p((1, 2), 2) + log_p((2, 3), 2)) / 2]
    assert score.log_likelihood == pytest.approx(log_p((0, 1), 0) + sum(inner) + log_p((2, 3), 3), abs=1e-4)
    assert (score.tokens, score.standard_error) == (4, 0.0)
    alone = [model.score([("sea", "x")], mode=mode)[0].log_likelihood for mode in ("pll_pairs", "pll")]
    assert alone[0] == pytest.approx(alone[1], abs=1e-5)
    with pytest.raises(UserError, match=r"mode: got 'x', expected .* or exact or pll_pairs"):
        model.score([("sea", "x")], mode="x")


def test_a_reading_is_in_every_validation(tiny: Tiny) -> None:
    train(tiny, "reading", "objective.alpha=1", "train.steps=2", "validate.every=1")
    rows = [row for row in tiny.rows() if "valid/ar_nll" in row]
    assert len(rows) == 2
    for row in rows:
        metric = "valid/ar_nll_last_quarter"
        assert row[metric] == pytest.approx(row["valid/ar_nll"], abs=1.0)
        assert row[metric] != row["valid/ar_nll_second_half"]
        assert row[f"{metric}_se"] > 0
        assert row[f"{metric}_bpb"] > 0
