"""The likelihood under the decoder that reveals tokens in the order of the model's confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dualm.data.tokenizer import MASK, PAD
from dualm.data.windows import document_ids
from dualm.likelihood.modes import Scoring
from dualm.likelihood.pairs import Pair, Score
from dualm.likelihood.targets import compare, with_targets
from dualm.model.attention import AttentionMask
from dualm.model.guidance import Query, logits, without_context
from dualm.model.transformer import Transformer
from dualm.objectives.masked_diffusion import outputs_of


def score_by_confidence(
    model: Transformer,
    pairs: Sequence[Pair],
    scoring: Scoring,
    shifted: bool,
    batch: int,
    until_mismatch: bool = False,
) -> list[Score]:
    """Likelihood under the decoder that always reveals the position where its largest probability is largest.

    The order depends on what is revealed and never on what is still masked, so this is a distribution over
    continuations. `until_mismatch` leaves a pair as soon as the decoder would choose another token.
    """
    scores: list[Score] = []
    start = 0
    while start < len(pairs):
        size = max(1, batch * model.config.context // sum(map(len, pairs[start])))
        scores += _reveal(model, pairs[start : start + size], scoring, shifted, until_mismatch)
        start += size
    return scores


def _reveal(
    model: Transformer, pairs: Sequence[Pair], scoring: Scoring, shifted: bool, until_mismatch: bool
) -> list[Score]:
    length = max(sum(map(len, pair)) for pair in pairs)
    truth = np.full((len(pairs), length), PAD)
    masked = np.zeros_like(truth, dtype=bool)
    for row, pair in enumerate(pairs):
        tokens = np.concatenate(pair)
        truth[row, : len(tokens)], masked[row, len(pair.context) : len(tokens)] = tokens, True
    contexts = np.array([len(pair.context) for pair in pairs])
    log_p, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
    while masked.any():
        active = np.flatnonzero(masked.any(axis=1))
        positions = masked[active]
        tokens = np.where(positions, MASK, truth[active])
        values, top, hit = _ask(model, tokens, positions, truth[active], contexts[active], scoring, shifted)
        chosen = top.argmax(axis=1)  # positions that are not masked have confidence -inf
        row = np.arange(len(active))
        log_p[active] += values[row, chosen]
        greedy[active] &= hit[row, chosen]
        masked[active, chosen] = False
        if until_mismatch:
            masked[~greedy] = False
    return [
        Score(float(total), 0.0, len(pair.continuation), bool(is_greedy))
        for pair, total, is_greedy in zip(pairs, log_p, greedy, strict=True)
    ]


def _ask(
    model: Transformer,
    tokens: np.ndarray,
    positions: np.ndarray,
    truth: np.ndarray,
    contexts: np.ndarray,
    scoring: Scoring,
    shifted: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At the masked `positions` of `tokens` `[rows, length]`: log p of the truth, largest log p, whether they agree."""
    device = next(model.parameters()).device
    flat = torch.from_numpy(outputs_of(positions, shifted)).to(device)
    targets = torch.from_numpy(truth[positions]).to(device)
    inputs = torch.from_numpy(tokens).to(device)
    attention = AttentionMask("bidirectional", torch.from_numpy(document_ids(tokens)))
    given = np.arange(tokens.shape[1]) < contexts[:, None]
    without = torch.from_numpy(without_context(tokens, given)).to(device) if scoring.guidance else None
    query = Query(inputs, attention, flat, without, scoring.guidance)
    grids = np.zeros(positions.shape), np.full(positions.shape, -np.inf), np.zeros(positions.shape, dtype=bool)
    read = []
    for chunk, wanted in with_targets(logits(model, query), targets):
        log_p, hit = compare(chunk, wanted)
        read.append((log_p, chunk.amax(-1) - chunk.logsumexp(-1), hit))
    for grid, column in zip(grids, zip(*read, strict=True), strict=True):
        grid[positions] = torch.cat(column).cpu().numpy()
    return grids
