"""A trained model in hand: score, generate, infill.

model = dualm.load("runs/mine")
model.score([("The cat sat on the", " mat.")], mode="pll")
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dualm import runs
from dualm.data.tokenizer import BOS, EOS, MASK, Tokenizer
from dualm.errors import UserError
from dualm.generation.autoregressive import decode
from dualm.generation.blocks import denoise_blocks
from dualm.generation.diffusion import Step, canvas, denoise
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import NEVER, Dice, Sampling, before_end
from dualm.generation.text_stream import TextStream
from dualm.generation.windows import denoise_windows
from dualm.likelihood.modes import Scoring
from dualm.likelihood.pairs import Pair, Score
from dualm.likelihood.score import score
from dualm.model import weights
from dualm.model.layout import by_inputs
from dualm.model.precision import PRECISIONS, autocast
from dualm.model.transformer import Transformer
from dualm.registry import Registry

MASK_PATTERN = re.compile(r"<mask(?::(\d+))?>")

# How a prompt is read in each mode of generation; None: its continuation is filled by diffusion.
GENERATION_MODES: Registry[Literal["causal", "prefix"] | None] = Registry(
    "generation mode", {"ar": "causal", "prefix": "prefix", "diffusion": None}
)


@dataclass(frozen=True)
class LanguageModel:
    model: Transformer
    tokenizer: Tokenizer
    shifted: bool  # whether masked diffusion outputs predict the next position
    folder: Path  # what it was loaded from
    precision: str = "fp32"

    @classmethod
    def load(cls, path: str | Path, device: str | None = None, precision: str = "fp32") -> LanguageModel:
        """The newest whole checkpoint of a run directory, or the model in a folder (a checkpoint, an export).

        `device` is by default the first CUDA device if there is one; `precision` is fp32 or bf16 (autocast).

        Raises:
            UserError: no such folder, no whole checkpoint, a damaged file, a tokenizer that is not the model's.
        """
        PRECISIONS.choose(precision, "precision")
        folder = model_folder(Path(path))
        config, tensors = weights.load(folder)
        about = weights.read_config(folder).get("dualm", {})
        tokenizer = Tokenizer.load(folder)
        if about.get("tokenizer", tokenizer.hash) != tokenizer.hash:
            raise UserError(f"{folder / 'tokenizer.json'}: is not the tokenizer that this model was trained with")
        if tokenizer.vocab > config.vocab:
            expected = f"at most the model's {config.vocab}"
            raise UserError(f"{folder / 'tokenizer.json'}: got {tokenizer.vocab} ids, expected {expected}")
        model = Transformer(config)
        model.load_state_dict(tensors)
        try:
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device: got {device!r}: {error}") from None
        if next(model.parameters()).device.type == "cpu":
            by_inputs(model)
        return cls(model.eval(), tokenizer, about.get("shifted", True), folder, precision)

    @property
    def context(self) -> int:
        return self.model.config.context

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(self, text: str) -> np.ndarray:
        """`<s>` and the ids of `text`, `[1 + tokens]`."""
        return np.concatenate([[BOS], self.tokenizer.encode([text])[0]])

    def encode_pair(self, context: str, continuation: str) -> Pair:
        """Tokens of a context, from `<s>` on, and of its continuation.

        White space at the end of the context goes to the continuation, and both are encoded as one text, so that no
        word is cut where the tokenizer would not cut it.
        """
        kept = context.rstrip()
        head, whole = self.tokenizer.encode([kept, context + continuation])
        return Pair(np.concatenate([[BOS], head]), whole[len(head) :])

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        mode: str = "ar",
        *,
        batch: int = 32,
        greedy: bool = False,
        **settings: Any,
    ) -> list[Score]:
        """Log-likelihood in nats of each continuation given its context: see `dualm.likelihood.modes`.

        Args:
            pairs: (context, continuation); an empty context scores the continuation as a document's beginning.
            mode: ar | prefix | mc | chain | pll | pll_mixed | exact.
            batch: sequences of full context that go through the network at once.
            greedy: also say whether decoding at temperature 0 would give the continuation.
            settings: draws, seed, guidance, mask_padding, time_steps; see `Scoring`.

        Raises:
            UserError: unknown mode, empty continuation, a setting that the mode ignores.
        """
        encoded = [self.encode_pair(*pair) for pair in pairs]
        return self.score_tokens(encoded, Scoring(mode, **settings), batch, greedy)

    def score_tokens(
        self, pairs: Sequence[Pair], scoring: Scoring, batch: int = 32, greedy: bool = False
    ) -> list[Score]:
        """The same for pairs of token ids."""
        with self.autocast():
            return score(self.model, pairs, scoring, self.shifted, batch, greedy)

    def generate(
        self,
        prompts: Sequence[str],
        mode: str = "ar",
        *,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        batch: int = 16,
        **denoising: Any,
    ) -> list[str]:
        """A continuation of each prompt, up to its `</s>` or the first of the strings in `stop`.

        Args:
            prompts: an empty one begins a document.
            mode: ar | prefix (the prompt read both ways, then causal) | diffusion.
            max_tokens: length of a continuation; by default 64, or what the context leaves. Diffusion with `block`
                or `stride` may go on beyond the context.
            temperature, top_k, top_p: see `Sampling`; temperature 0 takes the most likely token.
            seed: text number i is a function of (seed, i) alone.
            batch: how many go through the network at once.
            denoising: diffusion: sampler, steps, block, guidance, gamma, tau, eta, stride, noise_removal; see `Denoising`.

        Raises:
            UserError: unknown mode or sampler, a value outside its range, a prompt longer than the context.
        """
        task = Generation(mode, max_tokens, Sampling(temperature, top_k, top_p), Denoising(**denoising), tuple(stop))
        encoded = [self.encode(prompt) for prompt in prompts]
        texts: list[str] = []
        for start in range(0, len(prompts), batch):
            part = encoded[start : start + batch]
            dice = [Dice.of(seed, start + row, self.device) for row in range(len(part))]
            *_, last = self.continuations(part, task, dice)
            texts += last
        return texts

    def infill(
        self,
        text: str,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        **denoising: Any,
    ) -> str:
        """`text` with each `<mask:N>` filled by N tokens (`<mask>`: by one). What is given never changes.

        Raises:
            UserError: no mask in the text, a text longer than the context, or as `generate`.
        """
        tokens, sampling = self.encode_masked(text), Sampling(temperature, top_k, top_p, (*NEVER, EOS))
        steps = self.denoised(tokens[None], [Dice.of(seed, 0, self.device)], sampling, Denoising(**denoising))
        return self.tokenizer.decode(list(steps)[-1].tokens[0])

    def encode_masked(self, text: str) -> np.ndarray:
        """`<s>`, the ids of `text` with masks where it says so, and `</s>`: `[length]`."""
        pieces = MASK_PATTERN.split(text)  # text, count, text, count, ..., text
        if len(pieces) == 1:
            raise UserError(f"infill: got {text!r}, expected <mask> or <mask:N> in it")
        given = self.tokenizer.encode(pieces[::2])
        counts = [int(count or 1) for count in pieces[1::2]]
        if 0 in counts:
            raise UserError("infill: got <mask:0>, expected at least one token to fill in")
        masks = [np.full(count, MASK) for count in counts]
        middle = [part for pair in zip(given, [*masks, []], strict=True) for part in pair]
        tokens = np.concatenate([[BOS], *middle, [EOS]]).astype(np.int64)
        self._check_length("infill", len(tokens), self.context)
        return tokens

    def continuations(
        self, prompts: Sequence[np.ndarray], task: Generation, dice: Sequence[Dice]
    ) -> Iterator[list[str]]:
        """The continuations of prompts of token ids as they grow, one text a row, each time something was added."""
        if task.mode == "diffusion":
            yield from (self.texts(prompts, step, task) for step in self.canvases(prompts, task, dice))
            return
        attention = GENERATION_MODES[task.mode]
        assert attention is not None
        streams = [TextStream(self.tokenizer.decode, task.stop) for _ in prompts]
        with self.autocast():
            for tokens in decode(self.model, prompts, self.new_tokens(prompts, task), dice, task.sampling, attention):
                for stream, token in zip(streams, tokens.tolist(), strict=True):
                    stream.add(token)
                yield [stream.text for stream in streams]
                if all(stream.ended for stream in streams):
                    return
        yield [stream.finish() for stream in streams]

    def texts(self, prompts: Sequence[np.ndarray], step: Step, task: Generation) -> list[str]:
        """What a step of diffusion has written after each prompt so far, masks left out."""
        lengths = map(len, prompts)
        rows = [row[length:] for row, length in zip(step.tokens, lengths, strict=True)]
        return [task.cut(self.tokenizer.decode(before_end(row[row != MASK]))) for row in rows]

    def canvases(self, prompts: Sequence[np.ndarray], task: Generation, dice: Sequence[Dice]) -> Iterator[Step]:
        """The steps of diffusion after prompts of token ids."""
        count, options = self.new_tokens(prompts, task), task.denoising
        if options.stride is not None:
            self._check_length("stride", options.stride, self.context - 1)
            with self.autocast():
                yield from denoise_windows(self.model, prompts, count, dice, task.sampling, options, self.shifted)
        elif options.block is None or options.block >= count:
            yield from self.denoised(canvas(prompts, count), dice, task.sampling, options)
        else:
            self._check_length("block", options.block, self.context - 1)
            with self.autocast():
                yield from denoise_blocks(self.model, prompts, count, dice, task.sampling, options, self.shifted)

    def denoised(
        self, tokens: np.ndarray, dice: Sequence[Dice], sampling: Sampling, options: Denoising
    ) -> Iterator[Step]:
        """The steps that fill the masks of `tokens` `[rows, length]`."""
        with self.autocast():
            yield from denoise(self.model, tokens, dice, sampling, options, self.shifted)

    def new_tokens(self, prompts: Sequence[np.ndarray], task: Generation) -> int:
        """How many tokens to generate. Raises UserError where prompt and continuation don't fit into the context."""
        longest = max(map(len, prompts))
        self._check_length("prompt", longest, self.context - 1)
        room = self.context - longest
        if task.mode != "diffusion" or not task.denoising.outgrows_context:
            self._check_length("max_tokens", task.max_tokens or 0, room)
        return task.max_tokens or min(64, room)

    def _check_length(self, name: str, tokens: int, most: int) -> None:
        if tokens > most:
            raise UserError(f"{name}: got {tokens} tokens, expected at most {most} (the context is {self.context})")

    def autocast(self) -> AbstractContextManager[object]:
        return autocast(self.precision, self.device)


@dataclass(frozen=True)
class Generation:
    """What to generate after a prompt. Raises UserError for a value outside its range."""

    mode: str = "ar"
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    denoising: Denoising = field(default_factory=Denoising)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        GENERATION_MODES.choose(self.mode, "mode")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"max_tokens: got {self.max_tokens}, expected at least 1")

    def cut(self, text: str) -> str:
        """`text` before the first of the stop strings."""
        return text[: min((text.find(word) for word in self.stop if word in text), default=len(text))]


def model_folder(path: Path) -> Path:
    """The folder that holds the model of `path`: itself, or a run's newest whole checkpoint. Raises UserError."""
    if (path / "config.json").is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such folder, expected a run directory or an exported model")
    newest = runs.newest_whole(path, runs.READ)
    if newest is None:
        raise UserError(f"{path}: holds no checkpoint and no config.json, expected a trained run or an exported model")
    return newest
