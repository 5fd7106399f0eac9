"""MDLM's semi-autoregressive generation against its own description, and what it shares with blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dualm.data.tokenizer import BOS, EOS, MASK, PAD
from dualm.generation.diffusion import Calls
from dualm.generation.samplers import SAMPLERS, Denoising
from dualm.generation.sampling import NEVER, Dice, Sampling
from dualm.generation.windows import denoise_windows
from dualm.model.attention import AttentionMask
from dualm.model.transformer import Transformer
from tests.conftest import random_model

CONTEXT = 16
PROMPTS = [np.array([BOS, 17, 18, 20]), np.array([BOS]), np.array([BOS, 21, 17])]
NO_END = Sampling(forbidden=(*NEVER, EOS))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(1, 0.5, layers=2, context=CONTEXT, vocab=24)


def dice(count: int) -> list[Dice]:
    return [Dice.of(0, row, torch.device("cpu")) for row in range(count)]


def likeliest(model: Transformer, window: np.ndarray, shifted: bool) -> np.ndarray:
    """`window` `[length]` with every mask filled at once, each by the likeliest token."""
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(window)[None], AttentionMask("bidirectional"))[0]
    logits[:, list(NO_END.forbidden)] = -torch.inf
    places = np.flatnonzero(window == MASK)
    filled = window.copy()
    filled[places] = logits.argmax(-1).numpy()[places - shifted]
    return filled


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("stride", [1, 5, 15])
def test_a_window_keeps_all_but_its_first_tokens_as_a_prefix(model: Transformer, stride: int, shifted: bool) -> None:
    """One step a window at temperature 0, done by hand: fill a context, drop `stride` tokens at the front, add masks, fill."""
    length, prompt = 30, PROMPTS[0]
    window = likeliest(model, np.concatenate([prompt, np.full(CONTEXT - len(prompt), MASK)]), shifted)
    expected = window
    while len(expected) < len(prompt) + length:
        size = min(stride, len(prompt) + length - len(expected))
        window = likeliest(model, np.concatenate([window[size:], np.full(size, MASK)]), shifted)
        assert len(window) == CONTEXT
        expected = np.concatenate([expected, window[-size:]])
    options, calls = Denoising("confidence", steps=1, stride=stride), Calls()
    sampling = Sampling(0, forbidden=NO_END.forbidden)
    *_, last = denoise_windows(model, [prompt], length, dice(1), sampling, options, shifted, calls)
    assert last.tokens[0].tolist() == expected.tolist()
    assert calls.passes == 1 + -(-(length - (CONTEXT - len(prompt))) // stride)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_prompts_stay_and_every_token_is_written(model: Transformer, sampler: str, guidance: float) -> None:
    options = Denoising(sampler, 3, guidance=guidance, stride=7)
    *_, last = denoise_windows(model, PROMPTS, 40, dice(3), NO_END, options)
    for row, prompt in zip(last.tokens, PROMPTS, strict=True):
        assert row[: len(prompt)].tolist() == prompt.tolist()
        assert not set(NEVER) & set(row[len(prompt) : len(prompt) + 40].tolist())
        assert (row[len(prompt) + 40 :] == PAD).all()


def test_a_row_does_not_depend_on_its_neighbours(model: Transformer) -> None:
    """Rows of other lengths fill their first window, and slide, each for itself."""
    options = Denoising("ddpm", 4, stride=6)
    *_, together = denoise_windows(model, PROMPTS, 33, dice(3), NO_END, options)
    for row, prompt in enumerate(PROMPTS):
        *_, alone = denoise_windows(model, [prompt], 33, dice(3)[row : row + 1], NO_END, options)
        assert together.tokens[row, : len(prompt) + 33].tolist() == alone.tokens[0].tolist()


def test_steps_say_what_they_committed_and_rows_end_with_their_window() -> None:
    model = random_model(1, 0.5, layers=1, context=12, vocab=18)
    prompts = [np.array([BOS])] * 4
    options, sampling = Denoising("confidence", stride=6), Sampling(temperature=3)
    steps = list(denoise_windows(model, prompts, 60, dice(4), sampling, options))
    seen = np.zeros(steps[0].tokens.shape, dtype=int)
    for step in steps:
        seen += step.committed
        assert (np.isnan(step.confidence) == (seen == 0)).all()
    assert ((seen == 1) == (steps[-1].tokens != MASK))[:, 1:].all()
    for row in steps[-1].tokens:
        end = int((row == EOS).argmax())
        assert row[end] == EOS
        border = 12 if end < 12 else 12 + 6 * ((end - 12) // 6 + 1)
        assert (row[:border] != MASK).all()
        assert (row[border:] == MASK).all()  # nothing was generated after the window of the first end
