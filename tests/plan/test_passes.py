"""Every token is seen as often as asked, by the objectives that alpha asks for: counted from the batches that the network reads.

The tokens of these corpora all differ, so a token says where it stands. Masked inputs are read off the targets.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualm.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, RunConfig, TrainConfig
from dualm.data import tape
from dualm.data.shards import Shards, ShardWriter, write_manifest
from dualm.data.tokenizer import BOS, MASK, build
from dualm.errors import UserError
from dualm.objectives.example import Batch
from dualm.plan.batches import TrainingBatches
from dualm.plan.passes import open_passes, uses
from tests.data.streams import documents

L = 8  # context
TEXTS = documents([3 + 7 * (number % 5) for number in range(40)])  # 3 to 31 tokens, 680 in all


def shards(folder: Path, sources: dict[str | None, list[np.ndarray]]) -> Shards:
    splits: dict[str, Any] = {}
    for split in ("train", "valid"):
        listed, own = [], {}
        for name, texts in sources.items():
            writer = ShardWriter(folder, f"{split}-{name}", 2**17, 100)
            for tokens in texts:
                writer.write(tokens, len(tokens))
            counts = writer.finish()
            listed += [{**shard, "source": name} for shard in counts.pop("shards")]
            own[name] = counts
        total = {key: sum(counts[key] for counts in own.values()) for key in ("documents", "tokens", "bytes")}
        splits[split] = {**total, "shards": listed} | ({"sources": own} if None not in sources else {})
    write_manifest(folder, build("bytes", [], 300), splits, {})
    return Shards.open(folder)


def recipe(alpha: float, repetitions: int, micro: int, steps: int | None = None, **data: Any) -> Recipe:
    unique = 80 * L  # of 760 tokens
    return Recipe(
        run=RunConfig(seed=3),
        data=DataConfig(**{"tokens": unique * repetitions, "repetitions": repetitions, "chunk": 12, **data}),
        model=ModelConfig(context=L),
        objective=ObjectiveConfig(alpha=alpha),
        train=TrainConfig(steps=steps, global_batch=20, micro_batch=micro),
    )


def inputs(batch: Batch) -> np.ndarray:
    """The tokens of the windows, those that are masked too: the output before a masked input predicts it."""
    whole = batch.inputs.clone()
    whole.view(-1)[batch.outputs + 1] = batch.targets
    assert (batch.inputs == MASK).equal(whole != batch.inputs)
    return whole.numpy()


def counted(plan: TrainingBatches) -> dict[str, Counter[int]]:
    """How often every token was an input of either half, over the whole of training."""
    seen: dict[str, Counter[int]] = {"ar": Counter(), "md": Counter()}
    for name, batch in plan.for_rank(0, 1, 0):
        half = "ar" if name == "autoregressive" else "md"
        found = batch.inputs.numpy() if half == "ar" else inputs(batch)
        seen[half].update(token for token in found.ravel().tolist() if token > BOS + 1)
    return seen


@pytest.fixture(params=["one block", "many blocks"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many blocks":
        monkeypatch.setattr(tape, "BLOCK", 4)
        monkeypatch.setattr(tape, "SHUFFLED", 6)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("unit", ["chunks", "documents", "windows"])
@pytest.mark.parametrize("recut", [True, False])
@pytest.mark.parametrize(
    ("alpha", "repetitions", "micro"),
    [(0.5, 8, 5), (1 / 8, 16, 2), (63 / 64, 8, 10), (0.3, 5, 4), (0.37, 9, 20), (1.0, 4, 5), (0.0, 4, 5)],
)
def test_exposure_is_exact(unit: str, recut: bool, alpha: float, repetitions: int, micro: int, tmp_path: Path) -> None:
    made = recipe(alpha, repetitions, micro, unit=unit, recut=recut)
    opened = shards(tmp_path, {None: TEXTS})
    plan = TrainingBatches.of(made, open_passes(made, opened))
    seen = counted(plan)
    total = seen["ar"] + seen["md"]
    assert set(total.values()) == {repetitions}
    ar = [seen["ar"][token] for token in total]
    assert max(ar) - min(ar) <= 1
    assert abs(np.mean(ar) - alpha * repetitions) <= micro / 80 + 0.5 / len(total) + 0.05


def test_subsets_are_nested_and_exact(tmp_path: Path) -> None:
    opened = shards(tmp_path, {None: TEXTS})
    used = []
    for repetitions in (1, 2, 4, 8):
        made = recipe(1.0, repetitions, 5, tokens=80 * L)
        ring = open_passes(made, opened)[0].windows.ring
        used.append(opened.train.gather(*ring.cut(0, len(ring))[:2]))
        assert len(used[-1]) == 80 * L // repetitions
    for large, small in pairwise(used):
        assert large[: len(small)].tolist() == small.tolist()


def test_windows_and_contexts_differ_in_every_epoch(tmp_path: Path) -> None:
    """What stands before a token: always the same where windows are cut once, mostly another length where they are cut anew."""
    opened = shards(tmp_path, {None: TEXTS})
    positions = {}
    for recut in (True, False):
        made = recipe(1.0, 8, 5, recut=recut, unit="documents")
        plan = TrainingBatches.of(made, open_passes(made, opened))
        places: dict[int, set[int]] = {}
        for _, batch in plan.for_rank(0, 1, 0):
            for row in batch.inputs.tolist():
                for place, token in enumerate(row):
                    places.setdefault(token, set()).add(place)
        positions[recut] = [len(found) for token, found in places.items() if token > BOS + 1]
    assert set(positions[False]) == {1}
    assert np.mean(positions[True]) > 4  # of 8 positions, in 8 epochs


def test_every_token_but_the_first_of_a_piece_is_a_target(tmp_path: Path) -> None:
    """So with windows cut anew no token is left out for good, as those at the ends of fixed windows are by MD."""
    made = recipe(1.0, 8, 5, unit="documents")
    opened = shards(tmp_path, {None: TEXTS})
    plan = TrainingBatches.of(made, open_passes(made, opened))
    inputs, targets = Counter(), Counter()
    for _, batch in plan.for_rank(0, 1, 0):
        inputs.update(batch.inputs.flatten().tolist())
        targets.update(batch.targets.tolist())
    missed = {token for token in inputs if token > BOS + 1 and targets[token] < inputs[token]}
    assert len(missed) <= 1  # the document that the subset ends in, and arcs that end in one, begin without <s>


def test_attention_and_targets_stay_in_a_piece(tmp_path: Path) -> None:
    made = recipe(0.5, 4, 5, unit="chunks", chunk=5)
    opened = shards(tmp_path, {None: TEXTS})
    plan = TrainingBatches.of(made, open_passes(made, opened))
    for slot in range(100):
        window = plan.window(slot)
        follows = np.diff(window.tokens) == 1
        inside = np.diff(window.documents) == 0
        body = (window.tokens[1:] > 2) & (window.tokens[:-1] > 2)
        assert (follows[inside & body]).all()  # within a document id the tokens follow one another in the corpus


@pytest.mark.parametrize("recut", [True, False])
@pytest.mark.parametrize("alpha", [0.4, 1.0, 1 / 8])
def test_weighted_sources_have_their_shares(recut: bool, alpha: float, tmp_path: Path) -> None:
    texts = {"wiki": TEXTS[:20], "speech": TEXTS[20:30], "songs": TEXTS[30:]}
    train = [
        {"files": "wiki.txt", "weight": 0.5},
        {"files": "speech.txt", "weight": 0.3, "repetitions": 12},
        {"files": "songs.txt", "weight": 0.2, "repetitions": 8},
    ]
    made = recipe(alpha, 4, 4, train=train, recut=recut, tokens=16 * L * 20, unit="documents")
    opened = shards(tmp_path, dict(texts))
    plan = TrainingBatches.of(made, open_passes(made, opened))
    seen = counted(plan)
    sequences = plan.budget.sequences
    owner = {token: name for name, found in texts.items() for tokens in found for token in tokens.tolist()}
    for name, (share, repetitions) in {"wiki": (0.5, 4), "speech": (0.3, 12), "songs": (0.2, 8)}.items():
        mine = {token for token in seen["ar"] + seen["md"] if owner[token] == name}
        total = [seen["ar"][token] + seen["md"][token] for token in mine]
        ar = [seen["ar"][token] for token in mine]
        assert max(total) - min(total) <= 1
        assert max(ar) - min(ar) <= 1
        windows = next(source.windows for source in plan.budget.sources if source.name == name)
        assert (
            abs(np.mean(total) - repetitions) <= (2 + 20) / windows
        )  # +-2 windows, and the last step's that is not full
        assert windows * repetitions * L <= share * 16 * L * 20
    placed = Counter(plan.order.place(slot).source for slot in range(sequences))
    for number, share in enumerate(plan.budget.shares()):
        assert abs(placed[number] - share * sequences) < 2


def test_a_source_that_is_too_small_is_named(tmp_path: Path) -> None:
    train = [{"files": "wiki.txt", "weight": 0.5}, {"files": "speech.txt", "weight": 0.5, "repetitions": 2}]
    made = recipe(0.5, 4, 4, train=train, tokens=16 * L * 30)
    with pytest.raises(UserError, match=r"data\.train, source 'speech': repetitions: got 2, expected at least \d+"):
        open_passes(made, shards(tmp_path, {"wiki": TEXTS, "speech": TEXTS[:5]}))


def test_what_is_used_is_told(tmp_path: Path) -> None:
    opened = shards(tmp_path, {None: TEXTS})
    made = recipe(0.5, 4, 5, unit="documents")
    (use,) = uses(made, opened, open_passes(made, opened))
    assert (use.tokens, use.of_tokens, use.of_documents) == (640, 760, 40)
    assert 25 < use.documents < 40
    assert str(use) == f"640 of 760 tokens, {use.documents} of 40 documents"
