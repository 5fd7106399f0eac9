"""Scoring pairs in any mode: their examples, in batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from dualm.errors import UserError
from dualm.likelihood.confidence import score_by_confidence
from dualm.likelihood.modes import Scoring, standard_error
from dualm.likelihood.pairs import Pair, Score, windows
from dualm.likelihood.targets import compare, with_targets
from dualm.model.guidance import Query, logits, without_context
from dualm.model.transformer import Transformer
from dualm.objectives.example import Example, collate


def score(
    model: Transformer,
    pairs: Sequence[Pair],
    scoring: Scoring,
    shifted: bool = True,
    batch: int = 32,
    greedy: bool = False,
) -> list[Score]:
    """Score every pair; those longer than the context in windows (see `windows`).

    `shifted` says whether the model's masked diffusion outputs predict the next position.
    `batch` is how many sequences of full context go through the network at once (shorter ones: more of them); it
    changes a score by rounding only. `greedy` asks whether decoding at temperature 0 gives the continuation: in the
    order of the mode, and for modes that have none in that of `exact`.

    Raises:
        UserError: an empty continuation, or mask padding beyond the context.
    """
    if scoring.mask_padding > model.config.context:
        raise UserError(
            f"mask_padding: got {scoring.mask_padding}, expected at most {model.config.context}, the context"
        )
    size = model.config.context + scoring.how.causal
    parts = [windows(pair, size, size // 2) for pair in pairs]
    flat = [part for group in parts for part in group]
    order = sorted(range(len(flat)), key=lambda i: -len(flat[i].context) - len(flat[i].continuation))
    longest_first = [flat[i] for i in order]
    read = score_by_confidence if scoring.how.examples is None else _score_examples
    found = read(model, longest_first, scoring, shifted, batch)
    if greedy and not scoring.how.decodes:
        decoded = score_by_confidence(model, longest_first, scoring, shifted, batch, until_mismatch=True)
        found = [replace(one, greedy=other.greedy) for one, other in zip(found, decoded, strict=True)]
    done = [one for _, one in sorted(zip(order, found, strict=True))]
    last = np.cumsum([len(group) for group in parts]).tolist()
    return [_total(done[stop - len(group) : stop]) for group, stop in zip(parts, last, strict=True)]


def _total(parts: Sequence[Score]) -> Score:
    return Score(
        log_likelihood=sum(part.log_likelihood for part in parts),
        standard_error=math.sqrt(sum(part.standard_error**2 for part in parts)),
        tokens=sum(part.tokens for part in parts),
        greedy=None if parts[0].greedy is None else all(part.greedy for part in parts),
    )


def _score_examples(
    model: Transformer, pairs: Sequence[Pair], scoring: Scoring, shifted: bool, batch: int
) -> list[Score]:
    examples = scoring.how.examples
    assert examples is not None
    values: list[list[float]] = [[] for _ in pairs]
    chosen = [True] * len(pairs)
    made = ((i, example) for i, pair in enumerate(pairs) for example in examples(pair, scoring, shifted))
    for group in _batches(made, batch * model.config.context):
        contexts = np.array([len(pairs[i].context) for i, _ in group])
        for (i, _), (log_p, is_greedy) in zip(
            group, _read(model, [example for _, example in group], contexts, scoring), strict=True
        ):
            values[i].append(log_p)
            chosen[i] &= is_greedy
    knows = scoring.how.decodes
    return [
        Score(
            sum(drawn),
            standard_error(drawn) if scoring.how.draws else 0.0,
            len(pair.continuation),
            is_greedy if knows else None,
        )
        for pair, drawn, is_greedy in zip(pairs, values, chosen, strict=True)
    ]


def _batches(made: Iterable[tuple[int, Example]], tokens: int) -> Iterator[list[tuple[int, Example]]]:
    """Group examples, which come longest first, so that a padded group holds at most `tokens` tokens."""
    group: list[tuple[int, Example]] = []
    for item in made:
        if group and (len(group) + 1) * len(group[0][1].inputs) > tokens:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _read(
    model: Transformer, examples: Sequence[Example], contexts: np.ndarray, scoring: Scoring
) -> list[tuple[float, bool]]:
    """Weighted log-likelihood of each example, and whether every token it scores is the model's first choice."""
    length, device = max(len(example.inputs) for example in examples), next(model.parameters()).device
    batch = collate([_padded(example, length) for example in examples]).to(device)
    if not len(batch.outputs):  # draws at a low mask rate that mask nothing
        return [(0.0, True)] * len(examples)
    without = None
    if scoring.guidance:
        given = np.arange(length) < contexts[:, None]
        without = torch.from_numpy(without_context(batch.inputs.cpu().numpy(), given)).to(device)
    query = Query(batch.inputs, batch.attention, batch.outputs, without, scoring.guidance)
    read = [compare(chunk, targets) for chunk, targets in with_targets(logits(model, query), batch.targets)]
    log_p, hit = (torch.cat(column) for column in zip(*read, strict=True))
    row = batch.outputs // length
    total = torch.zeros(len(examples), dtype=torch.float64, device=device)
    missed = torch.zeros_like(total).index_add(0, row, (~hit).double())
    total.index_add_(0, row, log_p.double() * batch.weights)
    return list(zip(total.tolist(), (missed == 0).tolist(), strict=True))


def _padded(example: Example, length: int) -> Example:
    """Padding on the right is a document of its own, so that nothing sees it."""
    inputs, targets, weights = (
        np.pad(array, (0, length - len(array))) for array in (example.inputs, example.targets, example.weights)
    )
    return replace(example, inputs=inputs, targets=targets, weights=weights)
