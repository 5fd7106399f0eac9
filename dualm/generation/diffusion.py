"""Diffusion generation, the reverse process: predict every mask, let a sampler choose which predictions to commit.

    denoise        one canvas of any mask pattern, read both ways as a whole
    commit_steps   the loop over steps, however the model is read (dualm.generation.blocks reads through a cache)

Text that outgrows the context is made of several such canvases: `dualm.generation.blocks`, `dualm.generation.windows`.

Given tokens never change (carry-over unmasking), and no `<mask>`, `<pad>` or `<s>` is ever written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualm.data.tokenizer import MASK, PAD
from dualm.data.windows import document_ids
from dualm.generation.samplers import SAMPLERS, Denoising, View
from dualm.generation.sampling import Dice, Sampling, allowed, sample
from dualm.model.attention import AttentionMask
from dualm.model.guidance import Query, logits, without_context
from dualm.model.transformer import Transformer
from dualm.objectives.masked_diffusion import outputs_of


class Guess(NamedTuple):
    """What the model would write at each position of a canvas `[rows, length]`, and how sure it is; meant at masks only."""

    tokens: np.ndarray  # int64
    confidence: np.ndarray  # probability of that token, before temperature and truncation
    entropy: np.ndarray  # nats


class Step(NamedTuple):
    """A canvas after a step, and what the step did to it; all `[rows, length]`."""

    tokens: np.ndarray
    committed: np.ndarray  # bool
    remasked: np.ndarray  # bool
    confidence: np.ndarray  # of tokens that were committed at any step; NaN elsewhere


# (tokens [rows, length], which of the rows to ask about [n], how to draw) -> guess at those [n, length]
Ask = Callable[[np.ndarray, np.ndarray, Sampling], Guess]


@dataclass
class Calls:
    """How often the network was run, in sequences."""

    passes: int = 0
    sequences: int = 0

    def add(self, sequences: int) -> None:
        self.passes += 1
        self.sequences += sequences


def denoise(
    model: Transformer,
    tokens: np.ndarray,
    dice: Sequence[Dice],
    sampling: Sampling,
    options: Denoising,
    shifted: bool = True,
    calls: Calls | None = None,
) -> Iterator[Step]:
    """Fill the masks of `tokens` `[rows, length]`, rows padded with `<pad>` on the right; yields every step.

    Guidance goes without all tokens that are given but the first.

    Raises:
        ValueError: position 0 of a row is masked, and no output of a shifted model predicts it.
    """
    device = next(model.parameters()).device
    given = (tokens != MASK) & (tokens != PAD)

    def ask(state: np.ndarray, rows: np.ndarray, how: Sampling) -> Guess:
        inputs = state[rows]
        masked = inputs == MASK
        without = without_context(inputs, given[rows]) if options.guidance else None
        query = Query(
            torch.from_numpy(inputs).to(device),
            AttentionMask("bidirectional", torch.from_numpy(document_ids(inputs))),
            torch.from_numpy(outputs_of(masked, shifted)).to(device),
            unconditional=None if without is None else torch.from_numpy(without).to(device),
            guidance=options.guidance,
        )
        if calls:
            calls.add(len(rows) * (1 if without is None else 2))
        return guess(logits(model, query), masked, [dice[row] for row in rows], how)

    return commit_steps(ask, tokens, dice, sampling, options)


def canvas(prompts: Sequence[np.ndarray], length: int | np.ndarray) -> np.ndarray:
    """Each prompt `[k]` with `length` masks (one number or `[rows]`) after it, padded on the right: `[rows, longest]`."""
    ends = np.array([len(prompt) for prompt in prompts]) + length
    tokens = np.full((len(prompts), int(ends.max())), PAD)
    for row, (prompt, end) in enumerate(zip(prompts, ends.tolist(), strict=True)):
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : end] = MASK
    return tokens


def untouched(tokens: np.ndarray) -> Step:
    """A canvas before its first step."""
    committed, remasked = np.zeros(tokens.shape, dtype=bool), np.zeros(tokens.shape, dtype=bool)
    return Step(tokens, committed, remasked, np.full(tokens.shape, np.nan))


def pasted(whole: Step, where: tuple[np.ndarray, np.ndarray], part: Step) -> Step:
    """`whole` after a step that touched only its rows and columns `where`, and did `part` to them."""
    after = untouched(whole.tokens.copy())._replace(confidence=whole.confidence.copy())
    for grid, new in zip(after, part, strict=True):
        grid[where] = new
    return after


def commit_steps(
    ask: Ask, tokens: np.ndarray, dice: Sequence[Dice], sampling: Sampling, options: Denoising
) -> Iterator[Step]:
    """The reverse process on a canvas `[rows, length]`: as many steps as asked for, or as a row has masks.

    They end at t = `options.noise_removal`. One more then commits the masks that are left, if any.
    """
    tokens, sampler = tokens.copy(), SAMPLERS[options.sampler]
    free = tokens == MASK
    steps = np.full(len(tokens), options.steps) if options.steps else free.sum(axis=1)
    until_clean = steps / (1 - options.noise_removal)  # steps of this size from t = 1 to t = 0
    sure = np.full(tokens.shape, np.nan)
    known = Guess(tokens.copy(), np.zeros(tokens.shape), np.zeros(tokens.shape))
    stale = np.ones(len(tokens), dtype=bool)
    for step in range(int(steps.max(initial=0))):
        masked = tokens == MASK
        waiting = masked.any(axis=1)
        active = (steps > step) & (waiting | (free.any(axis=1) if sampler.remasks else False))
        asked = np.flatnonzero(active & waiting & (stale | (not sampler.cached)))
        if len(asked):
            for kept, new in zip(known, ask(tokens, asked, sampling), strict=True):
                kept[asked] = new
        committed, remasked = np.zeros_like(masked), np.zeros_like(masked)
        for row in np.flatnonzero(active).tolist():
            positions, revealed = np.flatnonzero(masked[row]), np.flatnonzero(free[row] & ~masked[row])
            view = View(
                confidence=known.confidence[row, positions],
                entropy=known.entropy[row, positions],
                committed=sure[row, revealed],
                left=float(until_clean[row]) - step,
                steps=float(until_clean[row]),
                rng=dice[row].positions,
            )
            choice = sampler.choose(view, options)
            committed[row, positions[choice.commit]] = True
            remasked[row, revealed[choice.remask]] = True
        tokens = np.where(committed, known.tokens, np.where(remasked, MASK, tokens))
        sure = np.where(committed, known.confidence, np.where(remasked, np.nan, sure))
        stale = (committed | remasked).any(axis=1)
        yield Step(tokens, committed, remasked, sure)
        if not sampler.remasks and not (tokens == MASK).any():
            return
    masked = tokens == MASK
    rest = np.flatnonzero(masked.any(axis=1))
    if len(rest):
        last = ask(tokens, rest, sampling if sampler.draws_rest else replace(sampling, temperature=0.0))
        tokens, sure = tokens.copy(), sure.copy()
        for whole, new in ((tokens, last.tokens), (sure, last.confidence)):
            whole[rest] = np.where(masked[rest], new, whole[rest])
        yield Step(tokens, masked, np.zeros_like(masked), sure)


def guess(chunks: Iterator[Tensor], masked: np.ndarray, dice: Sequence[Dice], sampling: Sampling) -> Guess:
    """Draw a token for every mask of `masked` `[rows, length]` from logits that come in chunks `[n, vocab]`."""
    texts, found, start = np.nonzero(masked)[0], [], 0
    for chunk in chunks:
        drawn = sample(chunk, texts[start : start + len(chunk)], dice, sampling)
        log_p = allowed(chunk, sampling.forbidden).log_softmax(-1)
        confidence = log_p.gather(-1, drawn[:, None]).squeeze(-1).exp()
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        found.append((drawn, confidence, entropy))
        start += len(chunk)
    grids = Guess(np.zeros(masked.shape, dtype=np.int64), np.zeros(masked.shape), np.zeros(masked.shape))
    for grid, column in zip(grids, zip(*found, strict=True), strict=True):
        grid[masked] = torch.cat(column).cpu().numpy()
    return grids
