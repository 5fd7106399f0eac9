"""Log-likelihood of a continuation given a context, in nats, read from one model in seven ways.

    ar         sum of log p(token | all before it), causal
    prefix     the same; the context's tokens see each other both ways
    mc         Monte Carlo NELBO, only continuation tokens masked (MDLM, eq. 10): a lower bound of log p; in continuous time,
               or that of `time_steps` steps
    chain      mask token j and all after it, score token j: N passes, exact for that order
    pll        pseudo-log-likelihood: each token with all the others visible (Salazar et al. 2020)
    pll_mixed  each token masked alone, with its next token, and with its next two; the mean of these
    exact      reveal the token the model is surest of, score it, ask again: the likelihood under that decoder

A mode is one record of MODES. Its examples are a function (pair, scoring, shifted) -> examples whose weighted
cross-entropies add up to -log p. `exact` alone must see an answer before it can ask the next question.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dualm.data.tokenizer import MASK
from dualm.errors import UserError
from dualm.likelihood.pairs import Pair
from dualm.model.attention import Kind
from dualm.objectives.example import Example
from dualm.objectives.masked_diffusion import mask_out
from dualm.objectives.time import UNIFORM, on_grid
from dualm.randomness import stream
from dualm.registry import Registry

SPANS = 3  # pll_mixed: a token is masked with at most this many minus one of its next tokens


@dataclass(frozen=True)
class Scoring:
    """How to score: one value from the command line to the number. Raises UserError for a setting that its mode ignores.

    `draws` and `seed` matter to modes that draw, `guidance` to all that are not causal. `mask_padding` puts masks that
    nobody scores after a pair until it is so many tokens long, for a model that has only ever seen text of its full context
    (SMDM); it matters to modes that mask some tokens. `time_steps` is T of the discrete-time bound (MDLM's code evaluates with
    T = 1000 as well), 0 for that in continuous time; it matters to `mc`.
    """

    mode: str = "ar"
    draws: int = 32
    seed: int = 0
    guidance: float = 0.0
    mask_padding: int = 0
    time_steps: int = 0

    def __post_init__(self) -> None:
        MODES.choose(self.mode, "mode")
        if self.draws < 1:
            raise UserError(f"draws: got {self.draws}, expected at least 1")
        if self.guidance and self.how.causal:
            raise UserError(f"guidance: got {self.guidance} in mode {self.mode}, expected 0: it needs a masked context")
        if self.mask_padding < 0:
            raise UserError(f"mask_padding: got {self.mask_padding}, expected 0 or more tokens")
        if self.mask_padding and not self.how.masks:
            masking = ", ".join(name for name, mode in MODES.items() if mode.masks)
            raise UserError(
                f"mask_padding: got {self.mask_padding} in mode {self.mode}, expected 0, or one of {masking}"
            )
        if self.time_steps < 0 or (self.time_steps and not self.how.draws):
            drawing = ", ".join(name for name, mode in MODES.items() if mode.draws)
            raise UserError(
                f"time_steps: got {self.time_steps} in mode {self.mode}, expected 0, or more with {drawing}"
            )

    @property
    def how(self) -> Mode:
        return MODES[self.mode]


@dataclass(frozen=True)
class Mode:
    """A way to read a continuation, and what scoring, tasks and tables must know of it."""

    examples: Callable[[Pair, Scoring, bool], Iterator[Example]] | None  # None: revealed token by token
    causal: bool = False  # the last token is a target only, so one more fits into the context
    decodes: bool = False  # scores in the order of a decoder, so it knows what greedy decoding would choose
    masks: bool = False  # masks some tokens of the continuation and sees the rest, so masks may follow it
    draws: bool = False  # a Monte Carlo estimate with a standard error
    bound: bool = False  # a lower bound of the log-likelihood
    note: str = ""  # what a table of perplexities says of it


def ar(pair: Pair, scoring: Scoring, shifted: bool) -> Iterator[Example]:
    yield _next_token(pair, "causal")


def prefix(pair: Pair, scoring: Scoring, shifted: bool) -> Iterator[Example]:
    yield _next_token(pair, "prefix")


def _next_token(pair: Pair, attention: Kind) -> Example:
    tokens, prefix = np.concatenate(pair), len(pair.context)
    scored = np.arange(1, len(tokens)) >= prefix
    return Example(tokens[:-1], tokens[1:], scored.astype(float), attention, prefix)


def mc(pair: Pair, scoring: Scoring, shifted: bool) -> Iterator[Example]:
    for masked, weight in antithetic_masks(len(pair.continuation), scoring, noise(pair, scoring.seed)):
        yield masked_example(pair, np.flatnonzero(masked), weight, scoring, shifted)


def antithetic_masks(n: int, scoring: Scoring, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, float]]:
    """The draws of `mc` over n tokens: what each masks, bool `[n]`, and the weight of a masked token.

    They come in pairs that complement each other, so that together they score every token once. The rates of a pair are r and 1 - r,
    or both 1 where r is: then each of them has the same distribution. The pairs' r are stratified, each drawn in its own stratum, so
    pairs are independent of each other. An odd number of draws ends with one half of a pair, either with probability 1/2.
    """
    time, pairs = on_grid(UNIFORM, scoring.time_steps), (scoring.draws + 1) // 2
    for i in range(pairs):
        t = time.quantile((i + rng.random()) / pairs)
        if scoring.time_steps:  # the rate is one of T, and masks fall independently
            rate, masked = t, rng.random(n) < t
        else:
            count = math.ceil(t * n)  # uniform on 1..N: see dualm.objectives.masked_diffusion
            rate, masked = count / n, rng.permutation(n) < count
        halves = [(masked, rate), (~masked, 1 - rate) if rate < 1 else (masked, rate)]
        if 2 * i + 1 == scoring.draws:
            halves = [halves[rng.integers(2)]]
        yield from ((hidden, 1 / (share * len(halves) * pairs)) for hidden, share in halves)


def standard_error(draws: Sequence[float]) -> float:
    """Of the sum of the weighted draws of `antithetic_masks`, in their order; nan for a single pair.

    Pairs are independent, but each has its own stratum, so their spread about a common mean says too much. The variance of the sum is
    estimated by half the sum of the squared differences of neighbours, the last being the first's. Its mean is the true variance and
    half the sum of the squared differences of the strata's means (collapsed strata: Cochran 1977, section 5A.12): never too small, and
    hardly too large, for complementary masks make these means nearly equal, all the way round.
    """
    of_pairs = np.add.reduceat(np.asarray(draws), np.arange(0, len(draws), 2))
    return float(np.sqrt(((of_pairs - np.roll(of_pairs, 1)) ** 2).sum() / 2)) if len(of_pairs) > 1 else math.nan


def chain(pair: Pair, scoring: Scoring, shifted: bool) -> Iterator[Example]:
    for j in range(len(pair.continuation)):
        yield masked_from(pair, j, len(pair.continuation), 1.0, scoring, shifted)


def pll(pair: Pair, scoring: Scoring, shifted: bool) -> Iterator[Example]:
    for j in range(len(pair.continuation)):
        yield masked_from(pair, j, j + 1, 1.0, scoring, shifted)


def pll_mixed(pair: Pair, scoring: Scoring, shifted: bool) -> Iterator[Example]:
    n = len(pair.continuation)
    for j in range(n):
        stops = range(j + 1, min(j + SPANS, n) + 1)
        for stop in stops:
            yield masked_from(pair, j, stop, 1 / len(stops), scoring, shifted)


def masked_from(pair: Pair, first: int, stop: int, weight: float, scoring: Scoring, shifted: bool) -> Example:
    """Mask the continuation's tokens first..stop-1, score the first of them."""
    masked = np.arange(first, stop)
    return masked_example(pair, masked, np.where(masked == first, weight, 0.0), scoring, shifted)


def masked_example(
    pair: Pair, masked: np.ndarray, weight: float | np.ndarray, scoring: Scoring, shifted: bool
) -> Example:
    """The pair with the continuation's tokens `masked` `[k]` masked, each scored with `weight` (one or `[k]`)."""
    tokens = np.concatenate(pair)
    padding = np.full(max(0, scoring.mask_padding - len(tokens)), MASK)
    return mask_out(np.concatenate([tokens, padding]), len(pair.context) + masked, weight, shifted)


def noise(pair: Pair, seed: int) -> np.random.Generator:
    """The generator of a pair: its masks depend on its own tokens, not on where in which batch it stands."""
    content = b"|".join(np.asarray(part, dtype=np.int64).tobytes() for part in pair)
    return stream(seed, "likelihood", int.from_bytes(hashlib.sha256(content).digest()[:8], "little"))


PSEUDO = "is a pseudo-perplexity: each token sees those after it, so compare it with its like only."

MODES = Registry(
    "likelihood mode",
    {
        "ar": Mode(ar, causal=True, decodes=True),
        "prefix": Mode(prefix, causal=True, decodes=True),
        "mc": Mode(mc, masks=True, draws=True, bound=True, note="mc is a bound: the perplexity is at most this."),
        "chain": Mode(chain, masks=True, decodes=True),
        "pll": Mode(pll, masks=True, note=f"pll {PSEUDO}"),
        "pll_mixed": Mode(pll_mixed, masks=True, note=f"pll_mixed {PSEUDO}"),
        "exact": Mode(None, decodes=True),
    },
)
