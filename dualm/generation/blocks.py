"""Block-wise diffusion from a cache: text of any length, one block of masks after another, left to right.

    cache    <s> The sea was              finished tokens, read once; each sees its own block and those before it
    active                  calm [M] [M]  the last finished token, whose output predicts the first mask, and the block

The active tokens see all of the cache and each other both ways; masks after the block do not exist. Training never shows
this visibility, so the quality has to be measured. MDLM's semi-autoregressive algorithm, which reads whole windows, is another:
`dualm.generation.windows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dualm.data.tokenizer import EOS, MASK, PAD
from dualm.generation.diffusion import Calls, Guess, Step, canvas, commit_steps, guess, pasted, untouched
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling
from dualm.model.attention import AttentionMask
from dualm.model.cache import KVCache
from dualm.model.guidance import head_logits, without_context
from dualm.model.transformer import Transformer
from dualm.objectives.masked_diffusion import outputs_of


def denoise_blocks(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    length: int,
    dice: Sequence[Dice],
    sampling: Sampling,
    options: Denoising,
    shifted: bool = True,
    calls: Calls | None = None,
) -> Iterator[Step]:
    """Extend each prompt `[k]` by `length` tokens, `options.block` at a time; yields every step of every block.

    The canvas of a step is `[rows, longest prompt + length]`, padded with `<pad>` on the right; masks in it are still
    to come. Where prompt, finished blocks and the next block exceed the context, the oldest tokens are forgotten.
    `options.steps` counts per block. A row ends with the block that holds its first `</s>`.
    """
    assert options.block is not None
    assert options.block < model.config.context
    reader = CachedReader(model, prompts, length, options.guidance, shifted, calls)
    whole = untouched(canvas(prompts, length))
    every = np.arange(len(prompts))[:, None]
    ends = np.array([len(prompt) for prompt in prompts])
    ended = np.zeros(len(prompts), dtype=bool)
    for start in range(0, length, options.block):
        size = min(options.block, length - start)
        spots = ends[:, None] + np.arange(-1, size)  # the last finished token and the block
        active = np.where(
            ended[:, None] & (np.arange(size + 1) > 0), PAD, np.take_along_axis(whole.tokens, spots, axis=1)
        )
        reader.make_room(size + 1)

        def ask(state: np.ndarray, rows: np.ndarray, how: Sampling) -> Guess:
            chunks = reader.logits(state, rows)
            return guess(chunks, state[rows] == MASK, [dice[row] for row in rows], how)

        for step in commit_steps(ask, active, dice, sampling, options):
            active = step.tokens
            whole = pasted(whole, (every, spots[:, 1:]), Step(*(grid[:, 1:] for grid in step)))
            yield whole
        ends = ends + size
        ended |= (active[:, 1:] == EOS).any(axis=1)
        if ended.all():
            return
        if start + size < length:
            reader.keep(active)


class CachedReader:
    """The finished tokens in a key-value cache; with guidance a second one, of the same tokens without the prompt."""

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[np.ndarray],
        length: int,
        guidance: float,
        shifted: bool,
        calls: Calls | None,
    ) -> None:
        self.model, self.guidance, self.shifted, self.calls = model, guidance, shifted, calls
        self.device = next(model.parameters()).device
        lengths = np.array([len(prompt) for prompt in prompts])
        prompt = canvas(prompts, 0)
        branches = [prompt] if not guidance else [prompt, without_context(prompt, prompt != PAD)]
        capacity = min(model.config.context, int(lengths.max()) + length)
        self.caches = [KVCache(model.config, len(prompts), capacity, self.device) for _ in branches]
        self.capacity, self.kept = capacity, lengths - 1  # the last token is always read again, with the block
        longest = int(self.kept.max())
        if longest:
            mask = AttentionMask("prefix", prefix=torch.from_numpy(self.kept).to(self.device))
            visible = mask.dense(len(prompts), longest, self.device)
            columns = torch.arange(longest, device=self.device).expand(len(prompts), -1)
            for cache, tokens in zip(self.caches, branches, strict=True):
                self._extend(tokens[:, :longest], columns, visible, cache)

    def make_room(self, size: int) -> None:
        """Forget the oldest tokens of rows where `size` more would not fit."""
        surplus = np.maximum(0, self.kept + size - self.capacity)
        for cache in self.caches:
            cache.drop(surplus.tolist())
        self.kept = self.kept - surplus

    def logits(self, active: np.ndarray, rows: np.ndarray) -> Iterator[Tensor]:
        """Logits of the masks of `active[rows]`, in order; `active` `[all rows, 1 + block]`."""
        masked = np.zeros(active.shape, dtype=bool)
        masked[rows] = active[rows] == MASK
        outputs = torch.from_numpy(outputs_of(masked, self.shifted)).to(self.device)
        hidden = [states.flatten(0, 1).index_select(0, outputs) for states in self._read(active)]
        without = hidden[1] if self.guidance else None
        return head_logits(self.model, hidden[0], without, self.guidance, MASK)

    def keep(self, active: np.ndarray) -> None:
        """Read a finished block once more, as it is, so that what follows sees its tokens and no masks."""
        self._read(active)
        self.kept = self.kept + active.shape[1] - 1

    def _read(self, active: np.ndarray) -> list[Tensor]:
        columns = torch.from_numpy(self.kept[:, None] + np.arange(active.shape[1])).to(self.device)
        seen = torch.arange(int(self.kept.max()) + active.shape[1], device=self.device)
        visible = (seen <= columns[:, -1:])[:, None, None]
        return [self._extend(active, columns, visible, cache) for cache in self.caches]

    @torch.no_grad()
    def _extend(self, tokens: np.ndarray, columns: Tensor, visible: Tensor, cache: KVCache) -> Tensor:
        if self.calls:
            self.calls.add(len(tokens))
        return self.model.extend(torch.from_numpy(tokens).to(self.device), columns, visible, cache)
