"""Every way to score, against brute force on a model small enough to enumerate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pytest
import torch

from dualm.data.tokenizer import BOS, MASK
from dualm.errors import UserError
from dualm.generation.diffusion import canvas, denoise
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling
from dualm.likelihood.modes import MODES, Scoring, antithetic_masks, standard_error
from dualm.likelihood.pairs import Pair, windows
from dualm.likelihood.score import score
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer
from tests.conftest import random_model

VOCAB = 20
DIFFUSION = ("mc", "chain", "pll", "pll_mixed", "exact")
CONTEXT = np.array([BOS, 17, 19])


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(0, 0.6, layers=2, context=8, vocab=VOCAB)


def pair(*continuation: int) -> Pair:
    return Pair(CONTEXT, np.array(continuation))


def one(model: Transformer, what: Pair, mode: str, shifted: bool = True, **options: object) -> float:
    return score(model, [what], Scoring(mode, **options), shifted)[0].log_likelihood  # type: ignore[arg-type]


def hidden_logits(model: Transformer, tokens: Sequence[int], hidden: Sequence[int], shifted: bool = True) -> np.ndarray:
    """log p at each hidden place (an index into the tokens), `[hidden, vocab]`."""
    inputs = torch.tensor(tokens)[None].clone()
    inputs[0, list(hidden)] = MASK
    with torch.no_grad():
        logits = (
            model.logits(inputs, AttentionMask("bidirectional"))[0]
            .double()
            .index_fill(-1, torch.tensor(MASK), -torch.inf)
        )
    return logits[[place - shifted for place in hidden]].log_softmax(-1).numpy()


def by_masks(model: Transformer, what: Pair, masks: Callable[[int], list[list[int]]], shifted: bool = True) -> float:
    """Sum over j of the mean log p(token j) over the masks (of places in the continuation) that `masks(j)` gives."""
    tokens, first = [*what.context, *what.continuation], len(what.context)
    total = 0.0
    for j, token in enumerate(what.continuation):
        seen = [hidden_logits(model, tokens, [first + k for k in mask], shifted) for mask in masks(j)]
        total += float(np.mean([logits[mask.index(j), token] for logits, mask in zip(seen, masks(j), strict=True)]))
    return total


def causal_log_p(model: Transformer, what: Pair, attention: AttentionMask) -> float:
    tokens = torch.from_numpy(np.concatenate(what))
    with torch.no_grad():
        log_p = model.logits(tokens[None, :-1], attention)[0].double().log_softmax(-1)
    first = len(what.context)
    return float(sum(log_p[first - 1 + j, token] for j, token in enumerate(what.continuation)))


def test_ar_and_prefix_sum_the_log_softmax(model: Transformer) -> None:
    what = pair(16, 18, 17)
    assert one(model, what, "ar") == pytest.approx(causal_log_p(model, what, AttentionMask("causal")), abs=1e-5)
    prefix = AttentionMask("prefix", prefix=torch.tensor([len(CONTEXT)]))
    assert one(model, what, "prefix") == pytest.approx(causal_log_p(model, what, prefix), abs=1e-5)
    assert abs(one(model, what, "prefix") - one(model, what, "ar")) > 1e-3


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(
    ("mode", "masks"),
    [
        ("chain", lambda j: [list(range(j, 4))]),
        ("pll", lambda j: [[j]]),
        ("pll_mixed", lambda j: [list(range(j, stop)) for stop in range(j + 1, min(j + 3, 4) + 1)]),
    ],
)
def test_fixed_masks_are_those_of_the_definition(
    model: Transformer, mode: str, masks: Callable[[int], list[list[int]]], shifted: bool
) -> None:
    what = pair(16, 18, 17, 4)
    assert one(model, what, mode, shifted=shifted) == pytest.approx(by_masks(model, what, masks, shifted), abs=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("mode", ["chain", "exact"])
def test_chain_and_exact_are_distributions(model: Transformer, mode: str, guidance: float) -> None:
    tokens = [token for token in range(VOCAB) if token != MASK]
    every = [pair(*both) for both in itertools.product(tokens, repeat=2)]
    scores = score(model, every, Scoring(mode, guidance=guidance))
    assert sum(math.exp(one.log_likelihood) for one in scores) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shifted", [True, False])
def test_mask_padding_is_seen_and_never_scored(model: Transformer, shifted: bool) -> None:
    what = pair(16, 18)
    length = len(CONTEXT) + 2 + 3
    padded, first = [*CONTEXT, 16, 18, MASK, MASK, MASK], len(CONTEXT)
    asked = [hidden_logits(model, padded, [first + j], shifted)[0, padded[first + j]] for j in (0, 1)]
    expected = float(sum(asked))
    found = score(model, [what], Scoring("pll", mask_padding=length), shifted)[0].log_likelihood
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found - one(model, what, "pll", shifted=shifted)) > 1e-4
    for wrong in ({"mode": "ar", "mask_padding": 4}, {"mode": "exact", "mask_padding": 4}, {"mask_padding": -1}):
        with pytest.raises(UserError, match="mask_padding: got"):
            Scoring(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mask_padding: got 99, expected at most"):
        score(model, [what], Scoring("pll", mask_padding=99))


def test_mc_converges_to_the_any_order_average(model: Transformer) -> None:
    what = pair(16, 18, 17)
    tokens, first, n = [*CONTEXT, *what.continuation], len(CONTEXT), 3
    by_count = []
    for count in range(1, n + 1):
        masks = list(itertools.combinations(range(n), count))
        seen = [hidden_logits(model, tokens, [first + k for k in mask]) for mask in masks]
        sums = [
            sum(log_p[row, what.continuation[k]] for row, k in enumerate(mask))
            for mask, log_p in zip(masks, seen, strict=True)
        ]
        by_count.append(n / count * np.mean(sums))
    (found,) = score(model, [what], Scoring("mc", draws=6000), batch=1000)
    assert 0 < found.standard_error < 0.01 * abs(found.log_likelihood)
    assert abs(found.log_likelihood - np.mean(by_count)) < 4 * found.standard_error


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_mc_in_discrete_time_is_the_bound_of_so_many_steps(model: Transformer, steps: int) -> None:
    what = pair(16, 18, 17)
    tokens, first, n = [*CONTEXT, *what.continuation], len(CONTEXT), 3
    nats = {}
    for mask in (mask for count in range(1, n + 1) for mask in itertools.combinations(range(n), count)):
        log_p = hidden_logits(model, tokens, [first + k for k in mask])
        nats[mask] = sum(log_p[row, what.continuation[k]] for row, k in enumerate(mask))
    rates = np.arange(1, steps + 1) / steps
    expected = sum(
        np.mean(rates ** len(mask) * (1 - rates) ** (n - len(mask)) / rates) * log_p for mask, log_p in nats.items()
    )
    (found,) = score(model, [what], Scoring("mc", draws=6000, time_steps=steps), batch=1000)
    assert found.standard_error < 0.02 * abs(found.log_likelihood)
    assert abs(found.log_likelihood - expected) < 4 * found.standard_error + 1e-4


def test_draws_that_mask_nothing_count_as_nothing(model: Transformer) -> None:
    """One token, hidden at rate i/8 and then weighing 8/i: it counts once on average, and every forward pass may be empty."""
    nats = hidden_logits(model, [*CONTEXT, 16], [len(CONTEXT)])[0, 16]
    (found,) = score(model, [pair(16)], Scoring("mc", draws=2000, time_steps=8), batch=1)
    assert abs(found.log_likelihood - nats) < 4 * found.standard_error < 0.2 * abs(nats)


def entropies_by_mask(model: Transformer, what: Pair) -> dict[bytes, float]:
    """log p of all masked tokens together, by the mask over the continuation."""
    tokens, first, n = [*what.context, *what.continuation], len(what.context), len(what.continuation)
    found = {bytes(n): 0.0}
    for mask in (mask for count in range(1, n + 1) for mask in itertools.combinations(range(n), count)):
        log_p = hidden_logits(model, tokens, [first + k for k in mask])
        where = np.isin(np.arange(n), mask)
        found[where.tobytes()] = float(sum(log_p[row, what.continuation[k]] for row, k in enumerate(mask)))
    return found


def estimates(
    table: dict[bytes, float], n: int, scoring: Scoring, draw: Callable[..., Iterable[tuple[np.ndarray, float]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate and claimed standard error under 3,000 seeds."""
    values, errors = [], []
    for seed in range(3000):
        draws = [weight * table[mask.tobytes()] for mask, weight in draw(n, scoring, np.random.default_rng(seed))]
        values.append(sum(draws))
        errors.append(standard_error(draws))
    return np.array(values), np.array(errors)


def independent_masks(n: int, scoring: Scoring, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, float]]:
    for t in 1 - rng.random(scoring.draws):
        count = math.ceil(t * n)
        yield rng.permutation(n) < count, n / count / scoring.draws


@pytest.mark.parametrize(("draws", "steps"), [(16, 0), (15, 0), (4, 0), (16, 7)])
def test_the_standard_error_of_antithetic_draws_covers(model: Transformer, draws: int, steps: int) -> None:
    what = pair(16, 18, 17, 4, 19)
    table, scoring = entropies_by_mask(model, what), Scoring("mc", draws=draws, time_steps=steps)
    values, errors = estimates(table, 5, scoring, antithetic_masks)
    many, _ = estimates(table, 5, Scoring("mc", draws=128, time_steps=steps), antithetic_masks)
    spread = values.std()
    assert abs(values.mean() - many.mean()) < 4 * spread / math.sqrt(
        len(values)
    )  # few draws have no other mean than many
    assert (
        0.97 * spread < math.sqrt((errors**2).mean()) < 1.25 * spread
    )  # the variance claimed is at least the true one
    covered = (np.abs(values - many.mean()) < 2 * errors).mean()
    assert covered > (0.88 if draws > 8 else 0.65)  # two pairs have one degree of freedom


def test_antithetic_draws_vary_less_than_independent_ones(model: Transformer) -> None:
    what = pair(16, 18, 17, 4, 19)
    table, scoring = entropies_by_mask(model, what), Scoring("mc", draws=16)
    pairs, _ = estimates(table, 5, scoring, antithetic_masks)
    independent, _ = estimates(table, 5, scoring, independent_masks)
    assert abs(pairs.mean() - independent.mean()) < 4 * independent.std() / math.sqrt(len(independent))
    assert pairs.std() < 0.87 * independent.std()  # 0.7 for the sentences of benchmarks/scoring.py and a trained model


def test_masks_of_a_pair_complement_each_other() -> None:
    draws = list(antithetic_masks(7, Scoring("mc", draws=64), np.random.default_rng(0)))
    for (first, weight), (second, other) in zip(draws[::2], draws[1::2], strict=True):
        assert (first.all() and second.all()) or (first ^ second).all()
        for mask, share in ((first, weight), (second, other)):
            assert share == pytest.approx(7 / mask.sum() / 64)


@pytest.mark.parametrize("mode", DIFFUSION)
def test_guidance(model: Transformer, mode: str) -> None:
    what = pair(16, 18)
    none = one(model, what, mode)
    assert one(model, what, mode, guidance=1e-6) == pytest.approx(none, abs=1e-4)
    assert abs(one(model, what, mode, guidance=1.0) - none) > 1e-3
    bare = Pair(np.array([BOS]), np.array([16, 18]))  # without a context there is nothing to go without
    assert one(model, bare, mode, guidance=1.0) == pytest.approx(one(model, bare, mode), abs=1e-4)


def test_guidance_is_the_formula(model: Transformer) -> None:
    allowed = np.arange(VOCAB) != MASK
    with_context = hidden_logits(model, [*CONTEXT, 16], [3])[0][allowed]
    without = hidden_logits(model, [BOS, MASK, MASK, 16], [3])[0][allowed]
    guided = without + 1.7 * (with_context - without)
    expected = guided - np.log(np.exp(guided).sum())
    token = int(np.flatnonzero(np.flatnonzero(allowed) == 16)[0])
    assert one(model, pair(16), "pll", guidance=0.7) == pytest.approx(expected[token], abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_neither_batch_nor_neighbours_nor_padding_change_a_score(model: Transformer, mode: str) -> None:
    rng = np.random.default_rng(0)
    several = [
        Pair(np.append(BOS, rng.integers(16, VOCAB, rng.integers(0, 4))), rng.integers(16, VOCAB, rng.integers(1, 4)))
        for _ in range(12)
    ]
    scoring = Scoring(mode, draws=5)
    alone = [score(model, [what], scoring, greedy=True)[0] for what in several]
    for batch in (1, 3, 100):
        together = score(model, several[::-1], scoring, batch=batch, greedy=True)[::-1]
        for a, b in zip(alone, together, strict=True):
            assert b.log_likelihood == pytest.approx(a.log_likelihood, abs=1e-4)
            assert b.standard_error == pytest.approx(a.standard_error, abs=1e-4)
            assert (a.tokens, a.greedy) == (b.tokens, b.greedy)


def test_only_the_seed_changes_the_masks(model: Transformer) -> None:
    what = pair(16, 18, 17)
    assert one(model, what, "mc", draws=4) == one(model, what, "mc", draws=4)
    assert one(model, what, "mc", draws=4) != one(model, what, "mc", draws=4, seed=1)


@pytest.mark.parametrize("mode", MODES)
def test_pairs_longer_than_the_context(model: Transformer, mode: str) -> None:
    rng = np.random.default_rng(0)
    scoring = Scoring(mode, draws=3)
    size = 8 + scoring.how.causal
    long = Pair(np.append(BOS, rng.integers(16, VOCAB, 20)), rng.integers(16, VOCAB, 3))
    cut = Pair(long.context[-(size - 3) :], long.continuation)
    assert one(model, long, mode, draws=3) == pytest.approx(one(model, cut, mode, draws=3), abs=1e-6)
    endless = Pair(np.array([BOS]), rng.integers(16, VOCAB, 30))
    parts = windows(endless, size, 4)
    assert all(len(part.context) + len(part.continuation) <= size for part in parts)
    assert np.concatenate([part.continuation for part in parts]).tolist() == endless.continuation.tolist()
    total = sum(one.log_likelihood for one in score(model, parts, scoring))
    assert one(model, endless, mode, draws=3) == pytest.approx(total, abs=1e-4)


def test_greedy_is_what_the_confidence_sampler_writes() -> None:
    model = random_model(5, 0.6, layers=2, context=8, vocab=VOCAB)
    with torch.no_grad():
        model.lm_head.weight[:16] = 0
        model.lm_head.weight[16:] *= 3
    dice = [Dice.of(0, 0, torch.device("cpu"))]
    sampling = Sampling(temperature=0, forbidden=tuple(range(16)))
    *_, last = denoise(model, canvas([CONTEXT], 4), dice, sampling, Denoising("confidence"))
    written = last.tokens[0, 3:]
    other = written.copy()
    other[2] = 16 + (other[2] - 15) % 4
    for mode in ("exact", "pll", "mc"):
        found = score(model, [pair(*written), pair(*other)], Scoring(mode), greedy=True)
        assert [one.greedy for one in found] == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scoring("perplexity"), "mode: got 'perplexity', expected ar or prefix or mc"),
        (lambda: Scoring("mc", draws=0), "draws: got 0"),
        (lambda: Scoring("pll", time_steps=10), "time_steps: got 10 in mode pll, expected 0, or more with mc"),
        (lambda: Scoring("ar", guidance=1.0), "guidance: got 1.0 in mode ar"),
        (lambda: windows(pair(), 8, 4), "continuation: got an empty text"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
