"""What `dualm evaluate` leaves behind: one table to read, one JSON and one CSV file to compute with."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dualm.errors import UserError
from dualm.evaluation.answers import AnswerResult
from dualm.evaluation.perplexity import TextResult
from dualm.evaluation.quality import Quality
from dualm.files import without_nan

if TYPE_CHECKING:
    from dualm.evaluation.harness import TaskResult

Result = TypeVar("Result")

NOTES = {
    "mc": "mc is a bound: the perplexity is at most this.",
    "pll": "pll is a pseudo-perplexity: each token sees those after it, so compare it with its like only.",
    "pll_mixed": "pll_mixed is a pseudo-perplexity, too.",
}


def task_table(results: Sequence[TaskResult], model: str) -> RenderableType:
    """Scores in percent ± their standard error, chance, and the score normalised to 0 at chance and 100 at perfection."""
    table = _table(model, ("task", "mode", "metric"), ("score ± s.e.", "chance", "norm.", "docs", "sec"))
    for name, (result, *others) in _grouped(results, lambda result: result.task):
        for place, each in enumerate([result, *others]):
            scale = 1 if each.chance is None else 100
            table.add_row(
                name if place == 0 else "",
                each.mode,
                each.metric,
                f"{each.score * scale:.1f} ± {_shown(each.standard_error * scale, 1):>3}",
                _shown(each.chance, 1, 100),
                _shown(each.normalised, 1),
                f"{each.documents:,}",
                f"{each.seconds:.1f}",
            )
        table.add_section()
    means = [name for name, group in _grouped(results, lambda result: result.task) if group[0].subtasks]
    notes = ["norm.: 0 at chance, 100 at perfection.", *(f"{name}: mean over its subtasks." for name in means)]
    return Group(table, Text(" ".join(notes), "dim"))


def text_table(results: Sequence[TextResult], model: str) -> RenderableType:
    table = _table(model, ("text", "mode"), ("nats/token ± s.e.", "perplexity", "bits/byte", "tokens", "sec"))
    for file, group in _grouped(results, lambda result: result.file):
        for place, result in enumerate(group):
            table.add_row(
                Path(file).name if place == 0 else "",
                result.mode,
                f"{result.nats_per_token:.3f} ± {_shown(result.standard_error, 3)}",
                ("≤ " if result.mode == "mc" else "") + f"{result.perplexity:.2f}",
                f"{result.bits_per_byte:.3f}",
                f"{result.tokens:,}",
                f"{result.seconds:.1f}",
            )
        table.add_section()
    notes = [NOTES[mode] for mode in dict.fromkeys(result.mode for result in results) if mode in NOTES]
    return Group(table, *(Text(note, "dim") for note in notes))


def answer_table(results: Sequence[AnswerResult], model: str, show: int = 0) -> RenderableType:
    """Share of right answers in percent ± its standard error, and below it the first `show` answers of each result."""
    table = _table(model, ("prompts of", "mode", "match"), ("right ± s.e.", "prompts", "sec"))
    for file, group in _grouped(results, lambda result: result.file):
        for place, result in enumerate(group):
            table.add_row(
                Path(file).name if place == 0 else "",
                result.mode + (", two stages" if result.two_stage else ""),
                result.match,
                f"{result.accuracy * 100:.1f} ± {result.standard_error * 100:>3.1f}",
                f"{result.prompts:,}",
                f"{result.seconds:.1f}",
            )
        table.add_section()
    long = {result.file: result.too_long for result in results if result.too_long}
    notes = [f"{Path(file).name}: {count:,} prompts fill the context, which is wrong." for file, count in long.items()]
    shown = [line for result in results for line in _shown_answers(result, show)]
    return Group(table, *(Text(note, "dim") for note in notes), *shown)


def _shown_answers(result: AnswerResult, show: int) -> list[Text]:
    lines = [Text(f"{Path(result.file).name}, {result.mode}", "bold")] if show else []
    for answer in result.answers[:show]:
        lines.append(Text(f"  {answer.prompt.strip()}", "dim"))
        lines.append(Text(f"  {'right' if answer.right else 'wrong'}: {answer.response.strip()}"))
        lines.append(Text(f"  expected: {answer.expected.strip()}\n"))
    return lines


def quality_table(measured: Quality) -> RenderableType:
    """Entropy stands right below perplexity, and a line says why."""
    rows = {
        "samples": f"{len(measured.samples):,}",
        f"length, {measured.unit}": f"{measured.length:.1f}",
        "generative perplexity, pooled": _shown(measured.perplexity, 2),
        "generative perplexity, median sample": _shown(measured.median_perplexity, 2),
        f"unigram entropy of a sample, nats per {measured.unit.rstrip('s')}": f"{measured.entropy:.3f}",
        "unigram entropy, all samples together": f"{measured.pooled_entropy:.3f}",
        **{f"distinct-{n}": _shown(share, 3) for n, share in measured.distinct.items()},
        "MAUVE": _shown(measured.mauve, 3),
    }
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        if value != "-":
            table.add_row(name, value)
    note = "Repeating a few words makes perplexity low: believe it only where entropy is that of real text."
    return Group(table, Text(note, "dim"))


def _grouped(results: Sequence[Result], name: Callable[[Result], str]) -> list[tuple[str, list[Result]]]:
    return [(key, list(group)) for key, group in groupby(results, key=name)]


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_edge=False, collapse_padding=True)
    for place, heading in enumerate(words):
        table.add_column(heading, overflow="fold", no_wrap=place > 0)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _shown(value: float | None, digits: int, scale: float = 1) -> str:
    return "-" if value is None or math.isnan(value) else f"{value * scale:.{digits}f}"


# ---------------------------------------------------------------- files


def row(result: TaskResult | TextResult | AnswerResult) -> dict[str, Any]:
    """A result as plain numbers: scores, errors and chance as fractions, `normalised` from 0 to 100."""
    if isinstance(result, AnswerResult):
        return asdict(result)
    if isinstance(result, TextResult):
        return asdict(result) | {"perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}
    plain = asdict(result) | {"normalised": result.normalised}
    return plain | {"subtasks": [row(part) for part in result.subtasks]}


def make_folder(folder: Path) -> None:
    """Raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}, expected a folder for the results") from None


def write(
    folder: Path, name: str, settings: Mapping[str, Any], results: Sequence[TaskResult | TextResult | AnswerResult]
) -> None:
    """`folder/name.json` with the settings and nested results, `folder/name.csv` with one line for each of them."""
    rows = [row(result) for result in results]
    flat = [line for whole in rows for line in [whole, *whole.get("subtasks", ())]]
    (folder / f"{name}.json").write_text(json.dumps(without_nan({**settings, "results": rows}), indent=2) + "\n")
    with (folder / f"{name}.csv").open("w", newline="") as file:
        columns = [column for column in flat[0] if column not in ("subtasks", "answers")]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(without_nan(flat))


def write_quality(path: Path, measured: Quality) -> None:
    make_folder(path.parent)
    path.write_text(json.dumps(without_nan(asdict(measured)), indent=2) + "\n")
