"""Answers: what a model responds to prompts, and how often that is right.

read_pairs   prompts and the responses that are expected, read as the run read its own training data
respond      a response to each prompt: greedy decoding, or diffusion in the whole window after it, as in training
MATCHERS     when a response counts as the expected one
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from itertools import groupby
from pathlib import Path
from string import punctuation

import numpy as np

from dualm import config
from dualm.config import DataConfig
from dualm.data import corpus
from dualm.errors import UserError
from dualm.generation.samplers import Denoising
from dualm.generation.sampling import Dice, Sampling
from dualm.language_model import Generation, LanguageModel
from dualm.registry import Registry

FINAL = "####"  # what GSM8K puts before the number that counts


@dataclass(frozen=True)
class Answering:
    """How responses are made and judged. Raises UserError for an unknown matcher."""

    match: str = "exact"
    two_stage: str | None = None  # diffusion: what follows this marker is decoded anew, given all before it
    denoising: Denoising = field(default_factory=Denoising)
    seed: int = 0  # of samplers that commit at random places
    batch: int = 8  # prompts that go through the network at once

    def __post_init__(self) -> None:
        MATCHERS.choose(self.match)


@dataclass(frozen=True)
class Answer:
    prompt: str
    expected: str
    response: str
    right: bool


@dataclass(frozen=True)
class AnswerResult:
    """The answers to the prompts of a file in one mode; `accuracy` and its standard error are fractions."""

    file: str
    mode: str
    match: str
    two_stage: str | None
    accuracy: float
    standard_error: float  # binomial
    prompts: int
    too_long: int  # prompts that leave no room in the context: wrong answers
    seconds: float
    answers: tuple[Answer, ...]


def evaluate_answers(
    model: LanguageModel,
    path: Path,
    pairs: Sequence[corpus.Entry],
    mode: str,
    how: Answering,
) -> AnswerResult:
    """Respond to every prompt of `pairs` (from the file `path`) and compare with the response that is expected."""
    began = time.perf_counter()
    prompts = [model.encode(prompt) for prompt, _ in pairs]
    responses = respond(model, prompts, mode, how)
    if how.two_stage and mode == "diffusion":
        responses = decode_anew(model, prompts, responses, how.two_stage, how)
    right = MATCHERS[how.match]
    answers = tuple(
        Answer(prompt, expected, response, right(response, expected))
        for (prompt, expected), response in zip(pairs, responses, strict=True)
    )
    accuracy = float(np.mean([answer.right for answer in answers]))
    return AnswerResult(
        file=str(path),
        mode=mode,
        match=how.match,
        two_stage=how.two_stage if mode == "diffusion" else None,
        accuracy=accuracy,
        standard_error=float(np.sqrt(accuracy * (1 - accuracy) / len(answers))),
        prompts=len(answers),
        too_long=sum(len(prompt) >= model.context for prompt in prompts),
        seconds=time.perf_counter() - began,
        answers=answers,
    )


# ---------------------------------------------------------------- prompts


def pair_format(run: Path) -> DataConfig:
    """How the pairs of a run are written: as its recipe says if it was trained on pairs, else as JSON Lines.

    Raises:
        UserError: a recipe that cannot be read.
    """
    recipe = run / "recipe.yaml"
    data = config.load(recipe).data if recipe.is_file() else DataConfig()
    return data if data.format == "pairs" else DataConfig(source="jsonl", format="pairs")


def read_pairs(path: Path, data: DataConfig) -> list[corpus.Entry]:
    """Prompts and responses of a file in the format of `data`; of a Hugging Face data set, as parquet or JSON Lines.

    Raises:
        UserError: a file that is missing or holds no pair, or as `corpus.read`.
    """
    if not path.is_file():
        raise UserError(f"--answers: {path}: no such file, expected one with prompts and responses")
    local = "parquet" if path.suffix == ".parquet" else "jsonl"
    source = local if data.source == "huggingface" else data.source
    pairs = list(corpus.read(replace(data, source=source, train=[glob.escape(str(path))]), "train"))
    if not pairs:
        raise UserError(f"--answers: {path}: no prompt with a response, expected at least one")
    return pairs


# ---------------------------------------------------------------- responses


def respond(model: LanguageModel, prompts: Sequence[np.ndarray], mode: str, how: Answering) -> list[str]:
    """A response at temperature 0 to each prompt of token ids `[k]`, as long as the context allows; "" if k fills it.

    Only prompts of one length share a batch: so each has the room that it would have alone.
    """
    responses = [""] * len(prompts)
    for rows in batches(list(map(len, prompts)), how.batch):
        together = [prompts[row] for row in rows]
        room = model.context - len(together[0])
        if room < 1:
            continue
        task = Generation(mode, room, Sampling(temperature=0), how.denoising)
        *_, texts = model.continuations(together, task, [Dice.of(how.seed, row, model.device) for row in rows])
        for row, text in zip(rows, texts, strict=True):
            responses[row] = text
    return responses


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of equal `lengths`, up to `size` at a time."""
    by_length = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for _, group in groupby(by_length, key=lambda row: lengths[row]):
        rows = list(group)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def decode_anew(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    responses: Sequence[str],
    marker: str,
    how: Answering,
) -> list[str]:
    """The responses, with all that follows `marker` filled in again once what precedes it is settled.

    Diffusion may commit a final number before the reasoning that it should follow from. SMDM (Nie et al. 2025) asks twice
    on GSM8K: for the rationale, then for the answer given question and rationale. Its model learns these as separate
    examples; here one response holds both, so the first pass writes it whole and is cut at the marker, which is added
    where it is missing. A response that leaves no room stays as it is.
    """
    heads = [before(response, marker) for response in responses]
    encoded = model.tokenizer.encode(heads)
    longer = [np.concatenate(parts) for parts in zip(prompts, encoded, strict=True)]
    tails = respond(model, longer, "diffusion", how)
    return [
        head + tail if len(given) < model.context else response
        for head, tail, given, response in zip(heads, tails, longer, responses, strict=True)
    ]


def before(response: str, marker: str) -> str:
    """`response` up to and with `marker`."""
    head, found, _ = response.partition(marker)
    return head + marker if found else f"{response.rstrip()} {marker}"


# ---------------------------------------------------------------- (response, expected) -> is it right?


def exact(response: str, expected: str) -> bool:
    """The same text, white space around it aside."""
    return response.strip() == expected.strip()


def begins(response: str, expected: str) -> bool:
    """Begins with what is expected, whatever the case and its last full stop (Berglund et al. 2023)."""
    return response.strip().lower().startswith(expected.strip().rstrip(punctuation).lower())


def final_answer(response: str, expected: str) -> bool:
    """The same after the last `####`, numbers compared as numbers (GSM8K: Cobbe et al. 2021)."""
    return FINAL in response and _value(response) == _value(expected)


def _value(text: str) -> Decimal | str:
    final = "".join(text.rpartition(FINAL)[2].split()).replace(",", "")
    try:
        return Decimal(final)
    except InvalidOperation:
        return final


MATCHERS: Registry[Callable[[str, str], bool]] = Registry(
    "--match", {"exact": exact, "begins": begins, "final_answer": final_answer}
)
