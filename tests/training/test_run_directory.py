"""The run directory tells the whole story, torn lines and resumed steps included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dualm.config import load
from dualm.data.tokenizer import Tokenizer
from dualm.model import weights
from dualm.model.transformer import Transformer
from dualm.runs import read_metrics
from dualm.training.metrics import open_for_append
from tests.conftest import Tiny


def test_a_run_holds_all_that_later_work_needs(tiny: Tiny) -> None:
    tiny.train("train.log_every=2", "validate.every=3")
    run = tiny.folder / "run"
    assert load(run / "recipe.yaml").train.steps == 6
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["deepspeed"]
    assert environment["world_size"] == 1

    rows = read_metrics(run)
    trained = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in trained] == [2, 4, 6]
    assert [row["tokens"] for row in trained] == [512, 1024, 1536]
    for key in ("train/ar_loss", "train/prefix_loss", "train/md_loss", "train/lr", "train/gradient_norm"):
        assert trained[-1][key] > 0
    assert 0 <= trained[-1]["perf/data_wait"] < 1
    assert trained[-1]["perf/model_flops_per_second"] > trained[-1]["perf/tokens_per_second"] > 0
    validated = [row for row in rows if "valid/ar_nll" in row]
    assert [row["step"] for row in validated] == [3, 6]
    for name in ("ar_nll", "md_nelbo", "prefix_nll", "unigram_nll"):
        assert 0 < validated[-1][f"valid/{name}_se"] < validated[-1][f"valid/{name}"]

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert {"train/md_loss", "valid/md_nelbo", "train/lr", "perf/data_wait"} <= set(board.Tags()["scalars"])
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["mode"]) for row in samples] == [(3, "ar"), (3, "md"), (6, "ar"), (6, "md")]

    checkpoint = run / "checkpoints/step-000006"
    config, state = weights.load(checkpoint)
    Transformer(config).load_state_dict(state)
    assert set(state) == set(load_file(checkpoint / "model.safetensors"))
    assert Tokenizer.load(checkpoint / "tokenizer.json").vocab == 272


def test_the_bits_per_byte_of_bytes_are_nats(tiny: Tiny) -> None:
    """With one token per byte the two units differ by ln 2 and the share of </s>."""
    tiny.train("train.steps=1")
    row = [row for row in tiny.rows() if "valid/ar_nll" in row][-1]
    ratio = row["valid/ar_bpb"] / row["valid/ar_nll"]
    assert 1 / 0.6932 < ratio < 1.02 / 0.6931


def test_torn_lines_are_cut_and_repeated_steps_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 5}\n{"step": 2, "train/loss": 4}\n{"step": 3, "tra')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with open_for_append(path) as file:
        file.write('{"step": 2, "train/loss": 3}\n{"step": 2, "event": "skipped"}\n{"step": 2, "valid/ar_nll": 9}\n')
    rows = read_metrics(tmp_path)
    assert [row.get("train/loss") for row in rows] == [5, None, 3, None]
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_bf16_trains_at_every_stage(tiny: Tiny, stage: int) -> None:
    world = 2 if stage else 1
    tiny.train("train.precision=bf16", f"train.zero_stage={stage}", "checkpoint.every=0", world=world)
    tiny.train(f"train.zero_stage={stage}", "checkpoint.every=0", run="fp32", world=world)
    assert tiny.losses() == pytest.approx(tiny.losses("fp32"), abs=0.05)
    assert tiny.losses() != tiny.losses("fp32")
