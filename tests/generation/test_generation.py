"""Decoders keep what is given, never emit what no reader wants, and sample what the model says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.generation.autoregressive import decode
from dualm.generation.diffusion import ancestral
from dualm.generation.sampling import NEVER, sample
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer
from tests.conftest import random_model


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = random_model(1, 0.7, layers=1, context=8, vocab=19)
    with torch.no_grad():
        model.lm_head.weight[4:16] -= 3 * model.lm_head.weight.std()  # hardly ever the reserved ids
    return model


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([0.0] * 16 + [1.0, 2.0, 0.5])
    allowed = [token for token in range(19) if token not in NEVER]
    drawn = sample(logits.expand(40_000, -1), np.random.default_rng(0), temperature=0.5)
    expected = torch.softmax(logits[allowed] / 0.5, -1).numpy() * len(drawn)
    observed = np.bincount(drawn, minlength=19)
    assert not observed[NEVER].any()
    chi_square = ((observed[allowed] - expected) ** 2 / expected).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001
    assert set(sample(logits.expand(5, -1), np.random.default_rng(0), temperature=0)) == {17}


def test_prompts_stay_and_specials_never_come_out(model: Transformer) -> None:
    rng = np.random.default_rng(0)
    out = decode(model, np.array([BOS, 17, 18]), 8, rng)
    assert out[:3].tolist() == [BOS, 17, 18]
    given = np.array([BOS, MASK, 17, MASK, MASK, EOS, MASK, 18])
    filled = ancestral(model, given, 3, rng)
    assert filled[given != MASK].tolist() == given[given != MASK].tolist()
    for tokens in (out[3:], filled[given == MASK]):
        assert not {PAD, BOS, MASK} & set(tokens.tolist())


def test_decoding_is_greedy_at_temperature_zero(model: Transformer) -> None:
    out = decode(model, np.array([BOS]), 6, np.random.default_rng(0), temperature=0)
    logits = model.logits(torch.from_numpy(out)[None], AttentionMask("causal"))[0].detach()
    logits[:, NEVER] = -torch.inf
    assert logits.argmax(-1)[:5].tolist() == out[1:].tolist()


def test_ancestral_one_token_a_step_samples_the_any_order_distribution() -> None:
    """With many steps tokens are committed one by one in random order; two masks are enough to enumerate."""
    model = random_model(3, 0.5, layers=1, context=4, vocab=18)
    given = np.array([BOS, MASK, MASK, 17])
    tokens = [token for token in range(18) if token not in NEVER]

    def conditional(state: np.ndarray, place: int) -> np.ndarray:
        with torch.no_grad():
            logits = model.logits(torch.from_numpy(state)[None], AttentionMask("bidirectional"))[0, place - 1].double()
        logits[NEVER] = -torch.inf
        return logits.softmax(-1).numpy()

    exact = np.zeros((18, 18))
    for first, second in ((1, 2), (2, 1)):
        outer = conditional(given, first)
        for token in tokens:
            state = given.copy()
            state[first] = token
            row = 0.5 * outer[token] * conditional(state, second)
            if first == 1:
                exact[token] += row
            else:
                exact[:, token] += row
    assert exact.sum() == pytest.approx(1)

    rng, draws = np.random.default_rng(0), 3000
    seen = np.zeros((18, 18))
    for _ in range(draws):
        out = ancestral(model, given, 60, rng)
        seen[out[1], out[2]] += 1
    # Pool rare pairs so that every cell expects at least five.
    cells = [(exact[pair] * draws, seen[pair]) for pair in itertools.product(tokens, tokens)]
    common = [(e, o) for e, o in cells if e >= 5]
    rare = [(e, o) for e, o in cells if e < 5]
    common.append((sum(e for e, _ in rare), sum(o for _, o in rare)))
    chi_square = sum((o - e) ** 2 / e for e, o in common)
    freedom = len(common) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)
