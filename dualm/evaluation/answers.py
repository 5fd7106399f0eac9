"""`dualm evaluate RUN --answers FILES`: what a model responds to prompts, and how often the response is right.

read_pairs   prompts and the responses that are expected, in the format of the run's own training data
respond      a response to each prompt: greedy decoding, or diffusion in the whole window after it, as in training
"""

from __future__ import annotations

import argparse
import glob
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from dualm import config
from dualm.config import DataConfig
from dualm.data import corpus
from dualm.errors import UserError
from dualm.evaluation.kind import Kind, check_at_least, label
from dualm.evaluation.matchers import MATCHERS
from dualm.evaluation.tables import grouped, result_table
from dualm.generation.samplers import Denoising

if TYPE_CHECKING:
    from dualm.language_model import LanguageModel


@dataclass(frozen=True)
class Answering:
    """How responses are made and judged. Raises UserError for an unknown matcher."""

    match: str = "exact"
    two_stage: str | None = None  # diffusion: what follows this marker is decoded again, given all before it
    denoising: Denoising = field(default_factory=Denoising)
    seed: int = 0  # of samplers that commit random positions
    batch: int = field(default=8, compare=False)  # prompts that go through the network at once

    def __post_init__(self) -> None:
        MATCHERS.choose(self.match)


@dataclass(frozen=True)
class Answers:
    """Which prompts are answered, and how. Raises UserError for a number out of its range."""

    run: Path  # its recipe says how pairs of prompt and response are written
    files: tuple[Path, ...]
    modes: tuple[str, ...]
    answering: Answering = field(default_factory=Answering)
    limit: int | None = None  # prompts per file
    show: int = field(default=0, compare=False)  # answers printed per result

    def __post_init__(self) -> None:
        check_at_least(1, "--limit", self.limit)
        check_at_least(0, "--show", self.show)

    @property
    def label(self) -> tuple[str, ...]:
        match = self.answering.match + ("-two-stage" if self.answering.two_stage else "")
        return label([path.stem for path in self.files], self.modes, match, limit=self.limit)


@dataclass(frozen=True)
class Answer:
    prompt: str
    expected: str
    response: str
    right: bool


@dataclass(frozen=True)
class AnswerResult:
    """The answers to the prompts of a file in one mode. `accuracy` and its standard error are fractions."""

    file: str
    mode: str
    match: str
    two_stage: str | None
    accuracy: float
    standard_error: float  # binomial
    prompts: int
    too_long: int  # prompts that fill the context, so that the answer is wrong
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
        responses = decode_again(model, prompts, responses, how.two_stage, how)
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
    """The format of a run's pairs: that of its recipe if it was trained on pairs, else JSON Lines.

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
    source = local if corpus.SOURCES[data.source].splits else data.source
    pairs = list(corpus.read(replace(data, source=source, train=[glob.escape(str(path))]), "train"))
    if not pairs:
        raise UserError(f"--answers: {path}: no prompt with a response, expected at least one")
    return pairs


# ---------------------------------------------------------------- responses


def respond(model: LanguageModel, prompts: Sequence[np.ndarray], mode: str, how: Answering) -> list[str]:
    """A response at temperature 0 to each prompt of token ids `[k]`, as long as the context allows; "" if k fills it.

    A batch holds prompts of one length only, so each has the room that it would have alone.
    """
    from dualm.generation.sampling import Dice, Sampling
    from dualm.language_model import Generation

    responses = [""] * len(prompts)
    for rows in batches(list(map(len, prompts)), how.batch):
        together = [prompts[row] for row in rows]
        room = model.context - len(together[0])
        if room < 1:
            continue
        generation = Generation(mode, room, Sampling(temperature=0), how.denoising)
        *_, texts = model.continuations(together, generation, [Dice.of(how.seed, row, model.device) for row in rows])
        for row, text in zip(rows, texts, strict=True):
            responses[row] = text
    return responses


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of equal `lengths`, up to `size` at a time."""
    by_length = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for _, group in groupby(by_length, key=lambda row: lengths[row]):
        rows = list(group)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def decode_again(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    responses: Sequence[str],
    marker: str,
    how: Answering,
) -> list[str]:
    """The responses, with all that follows `marker` decoded again, given what precedes it.

    Diffusion may commit a final number before the reasoning that it should follow from. SMDM (Nie et al. 2025) asks twice
    on GSM8K: for the rationale, then for the answer given question and rationale. Its model learns these as separate
    examples; here one response holds both. So the first pass writes it whole, and it is cut at the marker, which is added
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


# ---------------------------------------------------------------- the kind of evaluation


def add_arguments(group: argparse._ArgumentGroup) -> None:
    default = Denoising()
    group.add_argument(
        "--answers",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="prompts with responses, in the format of the run's data (default modes: all of generate)",
    )
    group.add_argument("--match", default="exact", help=f"when a response is right: {' | '.join(MATCHERS)} (exact)")
    group.add_argument("--sampler", default=default.sampler, help=f"of diffusion, as in generate ({default.sampler})")
    group.add_argument("--steps", type=int, help="network calls of diffusion (default: tokens)")
    group.add_argument("--two-stage", metavar="MARK", help="diffusion: decode what follows MARK once more")
    group.add_argument("--show", type=int, default=0, metavar="N", help="print N answers of each file and mode")


def settings(arguments: argparse.Namespace) -> Answers:
    from dualm.language_model import GENERATION_MODES

    for mode in arguments.modes:
        GENERATION_MODES.choose(mode, "--modes")
    denoising = Denoising(arguments.sampler, arguments.steps, guidance=arguments.guidance)
    return Answers(
        run=Path(arguments.run),
        files=tuple(arguments.answers),
        modes=arguments.modes or tuple(GENERATION_MODES),
        answering=Answering(arguments.match, arguments.two_stage, denoising, arguments.seed, arguments.batch),
        limit=arguments.limit,
        show=arguments.show,
    )


def read(what: Answers) -> dict[Path, list[corpus.Entry]]:
    """The pairs of each file, up to the limit. Raises UserError as `pair_format` and `read_pairs` do."""
    data = pair_format(what.run)
    return {path: read_pairs(path, data)[: what.limit] for path in what.files}


def run(
    model: LanguageModel, what: Answers, files: dict[Path, list[corpus.Entry]], say: Callable[[str], None]
) -> Iterator[AnswerResult]:
    for path, pairs in files.items():
        for mode in what.modes:
            say(f"{path}, mode {mode}")
            yield evaluate_answers(model, path, pairs, mode, what.answering)


def table(results: Sequence[AnswerResult], title: str, what: Answers) -> RenderableType:
    """Share of right answers in percent ± its standard error, and below it the first answers of each result."""
    made = result_table(title, ("prompts of", "mode", "match"), ("right ± s.e.", "prompts", "sec"))
    for group in grouped(results, lambda result: result.file):
        for name, result in group:
            made.add_row(
                Path(name).name,
                result.mode + (", two stages" if result.two_stage else ""),
                result.match,
                f"{result.accuracy * 100:.1f} ± {result.standard_error * 100:>3.1f}",
                f"{result.prompts:,}",
                f"{result.seconds:.1f}",
            )
        made.add_section()
    long = {result.file: result.too_long for result in results if result.too_long}
    notes = [f"{Path(file).name}: {count:,} prompts fill the context, which is wrong." for file, count in long.items()]
    lines = [line for result in results for line in _first_answers(result, what.show)]
    return Group(made, *(Text(note, "dim") for note in notes), *lines)


def _first_answers(result: AnswerResult, show: int) -> list[Text]:
    lines = [Text(f"{Path(result.file).name}, {result.mode}", "bold")] if show else []
    for answer in result.answers[:show]:
        lines.append(Text(f"  {answer.prompt.strip()}", "dim"))
        lines.append(Text(f"  {'right' if answer.right else 'wrong'}: {answer.response.strip()}"))
        lines.append(Text(f"  expected: {answer.expected.strip()}\n"))
    return lines


KIND = Kind(add_arguments, settings, read, run, asdict, table)
