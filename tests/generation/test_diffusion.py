"""Samplers keep what is given, write nothing that no reader wants, and draw from the model's own distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.errors import UserError
from dualm.generation.diffusion import Calls, Step, canvas, denoise
from dualm.generation.samplers import SAMPLERS, Denoising, View, entropy_bound, expected_count, threshold
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer
from tests.conftest import random_model

GIVEN = np.array([[BOS, MASK, 17, MASK, MASK, EOS, MASK, 18], [BOS, 18, MASK, MASK, MASK, PAD, PAD, PAD]])


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(1, 0.7, layers=1, context=16, vocab=19)


def fill(
    model: Transformer,
    tokens: np.ndarray,
    options: Denoising,
    seed: int = 0,
    calls: Calls | None = None,
    sampling: Sampling | None = None,
) -> list[Step]:
    dice = [Dice.of(seed, row, torch.device("cpu")) for row in range(len(tokens))]
    return list(denoise(model, tokens, dice, sampling or Sampling(), options, calls=calls))


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("steps", [None, 1, 3, 20])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_given_tokens_stay_and_specials_never_come_out(
    model: Transformer, sampler: str, steps: int | None, guidance: float
) -> None:
    *_, last = fill(model, GIVEN, Denoising(sampler, steps, guidance=guidance, eta=0.5))
    assert last.tokens[GIVEN != MASK].tolist() == GIVEN[GIVEN != MASK].tolist()
    assert not set(NEVER) & set(last.tokens[GIVEN == MASK].tolist())
    assert np.isnan(last.confidence[GIVEN != MASK]).all()
    assert (last.confidence[GIVEN == MASK] > 0).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_row_does_not_depend_on_its_neighbours(model: Transformer, sampler: str) -> None:
    together = fill(model, GIVEN, Denoising(sampler, 3))[-1].tokens
    dice = [Dice.of(0, 1, torch.device("cpu"))]
    *_, alone = denoise(model, GIVEN[1:, :5], dice, Sampling(), Denoising(sampler, 3))
    assert together[1, :5].tolist() == alone.tokens[0].tolist()


def conditional(model: Transformer, state: np.ndarray, place: int) -> np.ndarray:
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(state)[None], AttentionMask("bidirectional"))[0, place - 1].double()
    logits[list(NEVER)] = -torch.inf
    return logits.softmax(-1).numpy()


def any_order(model: Transformer, given: np.ndarray) -> np.ndarray:
    """Probability of each pair of tokens at places 1 and 2, averaged over the two orders of revealing them."""
    exact = np.zeros((18, 18))
    for first, second in ((1, 2), (2, 1)):
        outer = conditional(model, given, first)
        for token in range(18):
            state = given.copy()
            state[first] = token
            row = 0.5 * outer[token] * conditional(model, state, second) if outer[token] else 0.0
            target = exact[token] if first == 1 else exact[:, token]
            target += row
    assert exact.sum() == pytest.approx(1)
    return exact


@pytest.mark.parametrize("sampler", ["ancestral", "ancestral_cached"])
@pytest.mark.parametrize("steps", [2, 5])
def test_ancestral_draws_from_the_any_order_distribution(sampler: str, steps: int) -> None:
    """As many steps as masks commit one a step; with more, some steps commit nothing and none commits two."""
    model = random_model(3, 0.5, layers=1, context=4, vocab=18)
    given = np.array([BOS, MASK, MASK, 17])
    draws, rows = 4000, 500
    exact = any_order(model, given) * draws
    seen = np.zeros((18, 18))
    for seed in range(draws // rows):
        for out in fill(model, np.tile(given, (rows, 1)), Denoising(sampler, steps), seed=seed)[-1].tokens:
            seen[out[1], out[2]] += 1
    distance, freedom = chi_square(exact, seen)
    assert distance < freedom + 4 * np.sqrt(2 * freedom)


def test_committing_both_at_once_is_not_that_distribution() -> None:
    """What makes the test above able to fail: one step draws the two tokens independently."""
    model = random_model(3, 0.5, layers=1, context=4, vocab=18)
    given = np.array([BOS, MASK, MASK, 17])
    independent = np.outer(conditional(model, given, 1), conditional(model, given, 2))
    exact = any_order(model, given)
    used = exact > 0
    assert 4000 * ((independent - exact)[used] ** 2 / exact[used]).sum() > 1000


def chi_square(exact: np.ndarray, seen: np.ndarray) -> tuple[float, int]:
    """Of the pairs that may come out, expected and counted `[18, 18]`, and its degrees of freedom; rare pairs are pooled."""
    tokens = [token for token in range(18) if token not in NEVER]
    cells = [(exact[pair], seen[pair]) for pair in itertools.product(tokens, tokens)]
    common = [(e, o) for e, o in cells if e >= 5]
    rare = [(e, o) for e, o in cells if e < 5]
    common.append((sum(e for e, _ in rare), sum(o for _, o in rare)))
    return sum((o - e) ** 2 / e for e, o in common), len(common) - 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_cache", "analytic"])
def test_independent_coins_draw_from_the_process_of_so_many_steps(sampler: str) -> None:
    """Two masks, two steps: with probability 1/2 both fall into one step, and are then drawn independently of each other."""
    model = random_model(3, 0.5, layers=1, context=4, vocab=18)
    given = np.array([BOS, MASK, MASK, 17])
    draws, rows = 4000, 500
    together = np.outer(conditional(model, given, 1), conditional(model, given, 2))
    exact = draws * (together + any_order(model, given)) / 2
    seen, both = np.zeros((18, 18)), 0
    for seed in range(draws // rows):
        steps = fill(model, np.tile(given, (rows, 1)), Denoising(sampler, 2), seed=seed)
        both += sum(int((step.committed.sum(axis=1) == 2).sum()) for step in steps)
        for out in steps[-1].tokens:
            seen[out[1], out[2]] += 1
    assert both / draws == pytest.approx(0.5, abs=0.04)
    distance, freedom = chi_square(exact, seen)
    assert distance < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "alpha",
    [lambda t: 1 - t, lambda t: np.cos(np.pi / 2 * t), lambda t: np.exp(-10 * t)],
    ids=["log-linear", "cosine", "linear"],
)
def test_the_analytic_sampler_is_ancestral_for_an_absorbing_process(alpha: Callable[[float], float]) -> None:
    """SEDD's update written out for one position, V tokens and the mask last: staggered score times transition.

    score(y | x) = p_s(y) / p_s(x); staggered by dsigma: e^dsigma score, and (1 - e^dsigma) sum(score) more for the mask; the
    transition leads to y from y with e^-dsigma and to any y from the mask with 1 - e^-dsigma.
    """
    rng, vocab = np.random.default_rng(0), 5
    guess = np.append(rng.dirichlet(np.ones(vocab)), 0.0)
    for t, s in ((0.9, 0.6), (0.5, 0.49), (0.3, 1e-5)):
        sigma, dsigma = -np.log(alpha(t)), np.log(alpha(s) / alpha(t))
        odds = 1 / np.expm1(sigma)  # alpha / (1 - alpha)
        hidden, shown = guess * odds, np.zeros(vocab + 1)
        hidden[-1] = 1.0
        shown[2], shown[-1] = 1.0, 1 / odds
        probabilities = []
        for score, token in ((hidden, vocab), (shown, 2)):
            staggered = score * np.exp(dsigma)
            staggered[-1] += (1 - np.exp(dsigma)) * score.sum()
            transition = np.exp(-dsigma) * np.eye(vocab + 1)[token] + (token == vocab) * (1 - np.exp(-dsigma))
            probabilities.append(staggered * transition)
        reveal = (alpha(s) - alpha(t)) / (1 - alpha(t))
        assert probabilities[0] == pytest.approx(np.append(reveal * guess[:-1], 1 - reveal))
        assert probabilities[1] == pytest.approx(np.eye(vocab + 1)[2], abs=1e-9)


def test_a_coin_falls_as_the_steps_to_go_say() -> None:
    choose, rng = SAMPLERS["analytic"].choose, np.random.default_rng(0)
    for left in (1.0, 2.0, 5.0):
        now = View(np.full(20_000, 0.5), np.zeros(20_000), np.array([]), left, 10, rng)
        assert len(choose(now, Denoising("analytic")).commit) / 20_000 == pytest.approx(1 / left, abs=0.015)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_removal_takes_the_likeliest_of_what_is_left(model: Transformer, sampler: str) -> None:
    rows, share = 200, 0.4
    tokens = canvas([np.array([BOS, 17])] * rows, 10)
    steps = fill(model, tokens, Denoising(sampler, 3, noise_removal=share, tau=1.0, gamma=0.0))
    before, last = steps[-2].tokens, steps[-1]
    assert len(steps) == 4
    assert not (last.tokens == MASK).any()
    assert (last.committed == (before == MASK)).all()
    expected = {"entropy_bound": 0.7, "threshold": 0.7}.get(sampler, share)  # these commit one a step here
    assert last.committed[:, 2:].mean() == pytest.approx(expected, abs=0.05)
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(before), AttentionMask("bidirectional")).double()
    logits[..., list(NEVER)] = -torch.inf
    likeliest = np.roll(logits.argmax(-1).numpy(), 1, axis=1)
    agreement = (likeliest == last.tokens)[last.committed].mean()
    assert agreement < 0.9 if sampler == "analytic" else agreement == 1  # which draws, as in SEDD's and MDLM's code


def test_without_noise_removal_the_last_step_leaves_nothing(model: Transformer) -> None:
    for sampler in SAMPLERS:
        steps = fill(model, GIVEN, Denoising(sampler, 3))
        assert len(steps) <= 3
        assert not (steps[-1].tokens == MASK).any()


def test_cached_asks_only_after_a_change(model: Transformer) -> None:
    tokens = canvas([np.array([BOS])], 6)
    plain, cached = Calls(), Calls()
    fill(model, tokens, Denoising("ancestral", 40), calls=plain)
    steps = fill(model, tokens, Denoising("ancestral_cached", 40), calls=cached)
    changes = sum(step.committed.any() for step in steps)
    assert plain.passes > 20
    assert cached.passes == changes  # once at the start and after every change but the last


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_as_many_steps_as_masks_commit_one_a_step(model: Transformer, sampler: str) -> None:
    steps = fill(model, canvas([np.array([BOS])], 7), Denoising(sampler))
    assert [int(step.committed.sum()) for step in steps] == [1] * 7


def test_counts_are_even() -> None:
    masks, counts = 10, []
    for left in (4, 3, 2, 1):
        counts.append(expected_count(masks, left))
        masks -= counts[-1]
    assert (masks, sum(counts)) == (0, 10)
    assert max(counts) - min(counts) <= 1


def view(confidence: list[float], entropy: list[float], left: int = 5) -> View:
    rng = np.random.default_rng(0)
    return View(np.array(confidence), np.array(entropy), np.array([]), left, 10, rng)


def test_confidence_commits_the_surest_first(model: Transformer) -> None:
    first = fill(model, canvas([np.array([BOS, 17])], 6), Denoising("confidence", 6), sampling=Sampling(0))[0]
    with torch.no_grad():
        state = torch.from_numpy(canvas([np.array([BOS, 17])], 6))
        logits = model.logits(state, AttentionMask("bidirectional"))[0, 1:-1].double()
    logits[:, list(NEVER)] = -torch.inf
    surest = int(logits.softmax(-1).amax(-1).argmax())
    assert np.flatnonzero(first.committed[0]).tolist() == [2 + surest]


def test_entropy_bound_sums_up_to_gamma() -> None:
    now = view([0.1] * 4, [0.3, 0.05, 0.9, 0.06])
    assert sorted(entropy_bound(now, Denoising(gamma=0.0)).commit) == [1]
    assert sorted(entropy_bound(now, Denoising(gamma=0.1)).commit) == [1, 3]
    assert sorted(entropy_bound(now, Denoising(gamma=0.12)).commit) == [0, 1, 3]
    assert sorted(entropy_bound(now._replace(left=1), Denoising(gamma=0.0)).commit) == [0, 1, 2, 3]


def test_threshold_commits_all_above_and_at_least_one() -> None:
    assert threshold(view([0.95, 0.2, 0.91], [0] * 3), Denoising(tau=0.9)).commit.tolist() == [0, 2]
    assert threshold(view([0.5, 0.2, 0.6], [0] * 3), Denoising(tau=0.9)).commit.tolist() == [2]
    assert threshold(view([0.5, 0.2, 0.6], [0] * 3, left=1), Denoising(tau=0.9)).commit.tolist() == [0, 1, 2]


@pytest.mark.parametrize("sampler", ["remask", "remask_confidence"])
def test_remasking_hides_at_the_rate_asked_for_and_stays_on_schedule(model: Transformer, sampler: str) -> None:
    rows, steps = 200, 10
    tokens = canvas([np.array([BOS])] * rows, 10)
    taken = fill(model, tokens, Denoising(sampler, steps, eta=0.3))
    shares = [(step.tokens[:, 1:] != MASK).mean() for step in taken]
    assert shares == pytest.approx(np.arange(1, steps + 1) / steps, abs=0.04)
    middle = taken[4]
    hidden = middle.remasked[:, 1:].sum() / (taken[3].tokens[:, 1:] != MASK).sum()
    assert hidden == pytest.approx(0.3, abs=0.06)
    assert not any(step.remasked.any() for step in fill(model, tokens, Denoising(sampler, steps, eta=0.0)))


def test_confident_tokens_are_remasked_less_often() -> None:
    rng = np.random.default_rng(0)
    sure = np.array([0.05] * 50 + [0.95] * 50)
    now = View(np.full(100, 0.5), np.zeros(100), sure, 5, 10, rng)
    hidden = np.concatenate([SAMPLERS["remask_confidence"].choose(now, Denoising(eta=0.2)).remask for _ in range(200)])
    unsure, surely = (hidden < 50).sum(), (hidden >= 50).sum()
    assert unsure / surely == pytest.approx(np.exp(0.9), rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "magic"}, "sampler: got 'magic', expected ancestral"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"block": 0}, "block: got 0"),
        ({"gamma": -1.0}, "gamma: got -1.0"),
        ({"tau": 1.5}, "tau: got 1.5"),
        ({"eta": -0.1}, "eta: got -0.1"),
        ({"stride": 0}, "stride: got 0, expected at least 1"),
        ({"stride": 4, "block": 8}, "stride: got 4 with block = 8, expected one of them"),
        ({"noise_removal": 1.0}, "noise_removal: got 1.0, expected a mask rate"),
    ],
)
def test_bad_values_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Denoising(**options)  # type: ignore[arg-type]
