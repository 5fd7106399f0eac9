"""Golden losses: six steps of a tiny model, for every objective and optimizer, committed as they once were.

    python -m tests.golden             compare what the code computes now with the files beside this one
    python -m tests.golden --update    write the files again, in a commit that does only that and says why

A refactoring leaves the files as they are. On the machine that wrote them the losses are equal to the last bit of the
JSON numbers. On another CPU the matrix products may sum in another order; TOLERANCE is what that may cost: six steps
at ZeRO stages 0 to 3 and with 1 to 4 processes differ by less (tests/training/test_worlds.py). Newton-Schulz
amplifies what a different order leaves in the tiniest singular values, so Muon's tolerance is wider.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.corpus import write_corpus
from tests.forked import run

FOLDER = Path(__file__).parent
TOLERANCE = {"adamw": 2e-5, "muon": 1e-4}  # nats per token, any step

RECIPE = (
    "data.source=text",
    "data.documents=paragraph",
    "data.tokenizer=bytes",
    "model={layers: 2, hidden: 32, heads: 2, ffn: 48, context: 32, vocab: 272}",
    "optimizer.lr=1e-2",
    "train={steps: 6, global_batch: 8, micro_batch: 2, log_every: 1, zero_stage: 0}",
    "validate={every: 0, windows: 8, batch: 4, sample_tokens: 0}",
)
OBJECTIVES = {
    "ar": ("objective.alpha=1",),
    "prefix": ("objective.alpha=1", "objective.prefix_fraction=1"),
    "masked_input": ("objective.alpha=1", "objective.ar=masked_input"),
    "md": ("objective.alpha=0",),
    "md_unshifted": ("objective.alpha=0", "objective.shifted=false"),
    "mixed": ("objective.alpha=0.5", "objective.prefix_fraction=0.5"),
}
CASES = [(objective, optimizer) for objective in OBJECTIVES for optimizer in TOLERANCE]

Losses = dict[str, list[float]]  # metric: its value after every step, and those of the last validation


def path(objective: str, optimizer: str) -> Path:
    return FOLDER / f"{objective}-{optimizer}.json"


def expected(objective: str, optimizer: str) -> Losses:
    return json.loads(path(objective, optimizer).read_text())


def computed(objective: str, optimizer: str, folder: Path) -> Losses:
    """Train the case in `folder`: fp32, one process, ZeRO stage 0."""
    if not (folder / "corpus.txt").exists():
        write_corpus(folder / "corpus.txt")
    name = f"{objective}-{optimizer}"
    where = ("data.train=[corpus.txt]", "data.dir=prepared", f"run.dir={name}")
    (folder / "recipe.yaml").write_text("")
    keys = [*RECIPE, *OBJECTIVES[objective], f"optimizer.name={optimizer}", *where]
    done = run(["train", "recipe.yaml", *keys], folder)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return gathered(rows)


def gathered(rows: Sequence[dict[str, float]]) -> Losses:
    losses: Losses = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("valid/") or name.endswith("loss"):
                losses.setdefault(name, []).append(value)
    return losses


def largest_difference(found: Losses, golden: Losses) -> float:
    """Between two sets of the same metrics, in nats per token; infinite where one has what the other has not."""
    if {name: len(values) for name, values in found.items()} != {name: len(values) for name, values in golden.items()}:
        return float("inf")
    return max(abs(one - other) for name in golden for one, other in zip(found[name], golden[name], strict=True))
