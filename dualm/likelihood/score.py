"""Log-likelihood of a continuation given a context, in nats, read from one model in seven ways.

    ar         sum of log p(token | all before it), causal
    prefix     the same; the context's tokens see each other both ways
    mc         Monte Carlo NELBO, only continuation tokens masked (MDLM, eq. 10): a lower bound of log p
    chain      mask token j and all after it, score token j: N passes, exact for that order
    pll        each token with all the others visible (Salazar et al. 2020)
    pll_mixed  each token hidden alone, with its next token, and with its next two; the mean of these
    exact      reveal the token the model is surest of, score it, ask again: the likelihood under that decoder

A way to read is a function (context, continuation, ...) -> examples whose weighted cross-entropies add up to
-log p. `exact` alone must see an answer before it can ask the next question.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from dualm.data.tokenizer import MASK, PAD
from dualm.errors import UserError, choose
from dualm.model.attention import AttentionMask, Kind
from dualm.model.guidance import Query, logits, without_context
from dualm.model.transformer import Transformer
from dualm.objectives.example import Example, collate, document_ids
from dualm.objectives.masked_diffusion import mask_out
from dualm.objectives.time import UNIFORM, stratified
from dualm.randomness import stream

SPANS = 3  # pll_mixed: a token is hidden with at most this many minus one of its next tokens


class Pair(NamedTuple):
    """Tokens `[c]` that are given and tokens `[n]` to score after them; a whole document's context begins with `<s>`."""

    context: np.ndarray
    continuation: np.ndarray


@dataclass(frozen=True)
class Score:
    log_likelihood: float  # nats, sum over the continuation
    standard_error: float  # of the Monte Carlo estimate; 0 where nothing is drawn
    tokens: int
    greedy: bool | None = None  # whether decoding at temperature 0 gives this continuation; None: not asked for


@dataclass(frozen=True)
class Scoring:
    """How to read: `draws` and `seed` matter to `mc`, `guidance` to all but `ar` and `prefix`.

    `mask_padding` puts masks that nobody scores after a pair until it is so many tokens long, for a model that has only ever
    seen text of its full context (SMDM); it matters to `mc`, `chain`, `pll` and `pll_mixed`.
    """

    mode: str = "ar"
    shifted: bool = True
    draws: int = 32
    seed: int = 0
    guidance: float = 0.0
    mask_padding: int = 0

    def __post_init__(self) -> None:
        choose(MODES, "mode", self.mode)
        if self.draws < 1:
            raise UserError(f"draws: got {self.draws}, expected at least 1")
        if self.guidance and self.causal:
            raise UserError(f"guidance: got {self.guidance} in mode {self.mode}, expected 0: it needs a masked context")
        if self.mask_padding < 0:
            raise UserError(f"mask_padding: got {self.mask_padding}, expected 0 or more tokens")
        if self.mask_padding and self.mode not in MASKED_ALIKE:
            expected = f"0, or one of {', '.join(MASKED_ALIKE)}"
            raise UserError(f"mask_padding: got {self.mask_padding} in mode {self.mode}, expected {expected}")

    @property
    def causal(self) -> bool:
        """Whether the last token is a target only, so that one more fits into the context."""
        return self.mode in ("ar", "prefix")


# ---------------------------------------------------------------- ways to read


def _ar(pair: Pair, scoring: Scoring) -> Iterator[Example]:
    yield _next_token(pair, "causal")


def _prefix(pair: Pair, scoring: Scoring) -> Iterator[Example]:
    yield _next_token(pair, "prefix")


def _next_token(pair: Pair, attention: Kind) -> Example:
    tokens, prefix = np.concatenate(pair), len(pair.context)
    scored = np.arange(1, len(tokens)) >= prefix
    return Example(tokens[:-1], tokens[1:], scored.astype(float), attention, prefix)


def _mc(pair: Pair, scoring: Scoring) -> Iterator[Example]:
    n, rng = len(pair.continuation), noise(pair, scoring.seed)
    for u in stratified(rng, scoring.draws):
        count = math.ceil(UNIFORM.quantile(u) * n)  # uniform on 1..N: see dualm.objectives.masked_diffusion
        yield _hide(pair, rng.permutation(n)[:count], n / count / scoring.draws, scoring)


def _chain(pair: Pair, scoring: Scoring) -> Iterator[Example]:
    for j in range(len(pair.continuation)):
        yield _hide_from(pair, j, len(pair.continuation), 1.0, scoring)


def _pll(pair: Pair, scoring: Scoring) -> Iterator[Example]:
    for j in range(len(pair.continuation)):
        yield _hide_from(pair, j, j + 1, 1.0, scoring)


def _pll_mixed(pair: Pair, scoring: Scoring) -> Iterator[Example]:
    n = len(pair.continuation)
    for j in range(n):
        stops = range(j + 1, min(j + SPANS, n) + 1)
        for stop in stops:
            yield _hide_from(pair, j, stop, 1 / len(stops), scoring)


def _hide_from(pair: Pair, first: int, stop: int, weight: float, scoring: Scoring) -> Example:
    """Hide the continuation's tokens first..stop-1, score the first of them."""
    hidden = np.arange(first, stop)
    return _hide(pair, hidden, np.where(hidden == first, weight, 0.0), scoring)


def _hide(pair: Pair, hidden: np.ndarray, weight: float | np.ndarray, scoring: Scoring) -> Example:
    tokens = np.concatenate(pair)
    padding = np.full(max(0, scoring.mask_padding - len(tokens)), MASK)
    return mask_out(np.concatenate([tokens, padding]), len(pair.context) + hidden, weight, scoring.shifted)


SCORERS: dict[str, Callable[[Pair, Scoring], Iterator[Example]]] = {
    "ar": _ar,
    "prefix": _prefix,
    "mc": _mc,
    "chain": _chain,
    "pll": _pll,
    "pll_mixed": _pll_mixed,
}
MODES = {**SCORERS, "exact": None}
MASKED_ALIKE = ("mc", "chain", "pll", "pll_mixed")  # whose examples hide some tokens and see the rest both ways
FOLLOWS_A_DECODER = ("ar", "prefix", "chain")  # whose examples show what decoding in that order would choose


def noise(pair: Pair, seed: int) -> np.random.Generator:
    """The generator of a pair: its masks depend on its own tokens, not on where in which batch it stands."""
    content = b"|".join(np.asarray(part, dtype=np.int64).tobytes() for part in pair)
    return stream(seed, "likelihood", int.from_bytes(hashlib.sha256(content).digest()[:8], "little"))


# ---------------------------------------------------------------- reading pairs


def score(
    model: Transformer, pairs: Sequence[Pair], scoring: Scoring, batch: int = 32, greedy: bool = False
) -> list[Score]:
    """Score every pair; those longer than the context in windows (see `windows`).

    `batch` is how many sequences of full context go through the network at once (shorter ones: more of them); it
    changes a score by rounding only. `greedy` asks whether decoding at temperature 0 gives the continuation: in the
    order of the mode, and for `mc`, `pll` and `pll_mixed`, which have none, in that of `exact`.

    Raises:
        UserError: an empty continuation, an unknown mode, or mask padding beyond the context.
    """
    if scoring.mask_padding > model.config.context:
        raise UserError(
            f"mask_padding: got {scoring.mask_padding}, expected at most {model.config.context}, the context"
        )
    size = model.config.context + scoring.causal
    parts = [windows(pair, size, size // 2) for pair in pairs]
    flat = [part for group in parts for part in group]
    order = sorted(range(len(flat)), key=lambda i: -len(flat[i].context) - len(flat[i].continuation))
    done: list[Score] = [Score(0.0, 0.0, 0)] * len(flat)
    read = _score_exact if scoring.mode == "exact" else _score_examples
    for place, result in zip(order, read(model, [flat[i] for i in order], scoring, batch), strict=True):
        done[place] = result
    if greedy and scoring.mode not in ("exact", *FOLLOWS_A_DECODER):
        found = _score_exact(model, [flat[i] for i in order], scoring, batch, until_mismatch=True)
        for place, result in zip(order, found, strict=True):
            done[place] = replace(done[place], greedy=result.greedy)
    last = np.cumsum([len(group) for group in parts]).tolist()
    return [_total(done[stop - len(group) : stop]) for group, stop in zip(parts, last, strict=True)]


def windows(pair: Pair, size: int, stride: int) -> list[Pair]:
    """Cut a pair into pairs of at most `size` tokens, each of which continues the one before.

    A context too long for its continuation loses its front. A continuation too long for one window is scored in
    several: the first as long as fits, the others `stride` tokens with the `size - stride` before them as context.
    """
    if not len(pair.continuation):
        raise UserError("continuation: got an empty text, expected at least one token to score")
    assert len(pair.context), "a context holds at least <s>"
    tokens, start = np.concatenate(pair), len(pair.context)
    if len(pair.continuation) < size:
        return [Pair(pair.context[-(size - len(pair.continuation)) :], pair.continuation)]
    cut, stop = [], start + max(stride, size - start)
    while start < len(tokens):
        stop = min(stop, len(tokens))
        cut.append(Pair(tokens[max(0, stop - size) : start], tokens[start:stop]))
        start, stop = stop, stop + stride
    return cut


def _total(parts: Sequence[Score]) -> Score:
    return Score(
        log_likelihood=sum(part.log_likelihood for part in parts),
        standard_error=math.sqrt(sum(part.standard_error**2 for part in parts)),
        tokens=sum(part.tokens for part in parts),
        greedy=None if parts[0].greedy is None else all(part.greedy for part in parts),
    )


def _score_examples(model: Transformer, pairs: Sequence[Pair], scoring: Scoring, batch: int) -> list[Score]:
    values: list[list[float]] = [[] for _ in pairs]
    chosen = [True] * len(pairs)
    made = ((i, example) for i, pair in enumerate(pairs) for example in SCORERS[scoring.mode](pair, scoring))
    for group in _batches(made, batch * model.config.context):
        contexts = np.array([len(pairs[i].context) for i, _ in group])
        for (i, _), (log_p, is_greedy) in zip(
            group, _read(model, [example for _, example in group], contexts, scoring), strict=True
        ):
            values[i].append(log_p)
            chosen[i] &= is_greedy
    knows = scoring.mode in FOLLOWS_A_DECODER
    return [
        Score(sum(drawn), _standard_error(drawn, scoring), len(pair.continuation), is_greedy if knows else None)
        for pair, drawn, is_greedy in zip(pairs, values, chosen, strict=True)
    ]


def _standard_error(values: Sequence[float], scoring: Scoring) -> float:
    """Of a sum of draws. Taken as if they were independent; stratified as they are, the true one is smaller."""
    if scoring.mode != "mc" or len(values) < 2:
        return 0.0 if scoring.mode != "mc" else math.nan
    return float(np.std(values, ddof=1) * math.sqrt(len(values)))


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
    without = None
    if scoring.guidance:
        given = np.arange(length) < contexts[:, None]
        without = torch.from_numpy(without_context(batch.inputs.cpu().numpy(), given)).to(device)
    query = Query(batch.inputs, batch.attention, batch.rows, batch.excluded, without, scoring.guidance)
    read = [_compare(chunk, targets) for chunk, targets in _with_targets(logits(model, query), batch.targets)]
    log_p, hit = (torch.cat(column) for column in zip(*read, strict=True))
    row = batch.rows // length
    total = torch.zeros(len(examples), dtype=torch.float64, device=device)
    missed = torch.zeros_like(total).index_add(0, row, (~hit).double())
    total.index_add_(0, row, log_p.double() * batch.weights)
    return list(zip(total.tolist(), (missed == 0).tolist(), strict=True))


def _with_targets(chunks: Iterable[torch.Tensor], targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    start = 0
    for chunk in chunks:
        yield chunk, targets[start : start + len(chunk)]
        start += len(chunk)


def _compare(chunk: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each target `[n]` under logits `[n, vocab]`, and whether it is the most likely token."""
    log_p = chunk.gather(-1, targets[:, None]).squeeze(-1) - chunk.logsumexp(-1)
    return log_p, chunk.argmax(-1) == targets


def _padded(example: Example, length: int) -> Example:
    """Padding on the right is a document of its own, so that nothing sees it."""
    inputs, targets, weights = (
        np.pad(array, (0, length - len(array))) for array in (example.inputs, example.targets, example.weights)
    )
    return replace(example, inputs=inputs, targets=targets, weights=weights)


# ---------------------------------------------------------------- the order of confidence


def _score_exact(
    model: Transformer, pairs: Sequence[Pair], scoring: Scoring, batch: int, until_mismatch: bool = False
) -> list[Score]:
    """Likelihood under the decoder that always reveals the place where its largest probability is largest.

    The order depends on what is revealed and never on what is still hidden, so this is a distribution over
    continuations. `until_mismatch` leaves a pair as soon as the decoder would choose another token.
    """
    scores: list[Score] = []
    start = 0
    while start < len(pairs):
        size = max(1, batch * model.config.context // sum(map(len, pairs[start])))
        scores += _reveal(model, pairs[start : start + size], scoring, until_mismatch)
        start += size
    return scores


def _reveal(model: Transformer, pairs: Sequence[Pair], scoring: Scoring, until_mismatch: bool) -> list[Score]:
    length, device = max(sum(map(len, pair)) for pair in pairs), next(model.parameters()).device
    truth = np.full((len(pairs), length), PAD)
    hidden = np.zeros_like(truth, dtype=bool)
    for row, pair in enumerate(pairs):
        tokens = np.concatenate(pair)
        truth[row, : len(tokens)], hidden[row, len(pair.context) : len(tokens)] = tokens, True
    contexts = np.array([len(pair.context) for pair in pairs])
    log_p, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
    while hidden.any():
        active = np.flatnonzero(hidden.any(axis=1))
        places = hidden[active]
        tokens = np.where(places, MASK, truth[active])
        values, top, hit = _ask(model, tokens, places, truth[active], contexts[active], scoring, device)
        chosen = top.argmax(axis=1)  # places that are not hidden have confidence -inf
        row = np.arange(len(active))
        log_p[active] += values[row, chosen]
        greedy[active] &= hit[row, chosen]
        hidden[active, chosen] = False
        if until_mismatch:
            hidden[~greedy] = False
    return [
        Score(float(total), 0.0, len(pair.continuation), bool(is_greedy))
        for pair, total, is_greedy in zip(pairs, log_p, greedy, strict=True)
    ]


def _ask(
    model: Transformer,
    tokens: np.ndarray,
    places: np.ndarray,
    truth: np.ndarray,
    contexts: np.ndarray,
    scoring: Scoring,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At the hidden `places` of `tokens` `[rows, length]`: log p of the truth, largest log p, whether they agree."""
    flat = torch.from_numpy(np.flatnonzero(places) - scoring.shifted).to(device)
    targets = torch.from_numpy(truth[places]).to(device)
    inputs = torch.from_numpy(tokens).to(device)
    attention = AttentionMask("bidirectional", torch.from_numpy(document_ids(tokens)))
    given = np.arange(tokens.shape[1]) < contexts[:, None]
    without = torch.from_numpy(without_context(tokens, given)).to(device) if scoring.guidance else None
    query = Query(inputs, attention, flat, MASK, without, scoring.guidance)
    grids = np.zeros(places.shape), np.full(places.shape, -np.inf), np.zeros(places.shape, dtype=bool)
    read = []
    for chunk, wanted in _with_targets(logits(model, query), targets):
        log_p, hit = _compare(chunk, wanted)
        read.append((log_p, chunk.amax(-1) - chunk.logsumexp(-1), hit))
    for grid, column in zip(grids, zip(*read, strict=True), strict=True):
        grid[places] = torch.cat(column).cpu().numpy()
    return grids
