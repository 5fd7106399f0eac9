"""MDLM's semi-autoregressive generation: text of any length from windows that slide over it by a stride.

    window 1   <s> The sea was [M] [M] [M] [M]     the whole context, denoised both ways at once
    window 2       sea was calm and it [M] [M]     all but the first `stride` tokens kept as a prefix, `stride` masks after them

Every window is a canvas of full length, read as a whole at every step as in training, and positions count from its own start
(`sample_subs_guidance` in MDLM's code). Nothing is cached. `dualm.generation.blocks` goes left to right from a cache instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dualm.data.tokenizer import EOS, MASK
from dualm.generation.diffusion import Calls, Step, canvas, denoise, pasted, untouched
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling
from dualm.model.transformer import Transformer


def denoise_windows(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    length: int,
    dice: Sequence[Dice],
    sampling: Sampling,
    options: Denoising,
    shifted: bool = True,
    calls: Calls | None = None,
) -> Iterator[Step]:
    """Extend each prompt `[k]` by `length` tokens: a context full of them first, then `options.stride` at a time.

    The canvas of a step is `[rows, longest prompt + length]`, padded with `<pad>` on the right; masks in it are still to come.
    `options.steps` counts per window. Guidance goes without all that a window was given but its first token. A row ends with the
    window that holds its first `</s>`; MDLM goes on, since its windows hold several documents.
    """
    assert options.stride is not None
    assert options.stride < model.config.context
    context, whole = model.config.context, untouched(canvas(prompts, length))
    ends = np.array([len(prompt) for prompt in prompts])
    limits, sizes = ends + length, context - ends  # of the text; of the next addition to it
    while len(rows := np.flatnonzero(ends < limits)):
        sizes = np.minimum(sizes, limits - ends)
        starts = np.maximum(0, ends + sizes - context)
        window = canvas([whole.tokens[row, starts[row] : ends[row]] for row in rows], sizes[rows])
        added = np.nonzero(window == MASK)
        there = rows[added[0]], starts[rows][added[0]] + added[1]  # in the text
        own = [dice[row] for row in rows.tolist()]
        for step in denoise(model, window, own, sampling, options, shifted, calls):
            whole = pasted(whole, there, Step(*(grid[added] for grid in step)))
            yield whole
        ends[rows] += sizes[rows]
        limits[there[0][whole.tokens[there] == EOS]] = 0  # those rows have ended
        sizes = np.full(len(ends), options.stride)
