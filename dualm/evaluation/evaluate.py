"""`dualm evaluate`: tasks, texts or prompts × modes, one result after the other, kept as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dualm.errors import UserError
from dualm.evaluation import answers, report
from dualm.evaluation.answers import Answering, AnswerResult
from dualm.evaluation.perplexity import TextResult, perplexity
from dualm.evaluation.texts import read_text
from dualm.language_model import GENERATION_MODES, LanguageModel
from dualm.likelihood.modes import Scoring

if TYPE_CHECKING:
    from dualm.evaluation.harness import TaskResult

TASK_MODES = ("ar", "prefix", "pll", "mc")
TEXT_MODES = ("ar", "mc")


@dataclass(frozen=True)
class Evaluation:
    """What to measure: `tasks` (names, with files below `data`), `texts` (files), or answers to `prompts` (files)."""

    run: Path
    tasks: tuple[str, ...] = ()
    texts: tuple[Path, ...] = ()
    prompts: tuple[Path, ...] = ()
    answering: Answering = field(default_factory=Answering)
    show: int = 0  # answers printed per result
    modes: tuple[str, ...] = ()
    data: Path | None = None
    limit: int | None = None  # documents per task or subtask, prompts per file
    stride: int | None = None
    draws: int = 32
    guidance: float = 0.0
    mask_padding: int = 0
    seed: int = 0
    batch: int = 8
    device: str | None = None
    precision: str = "fp32"
    out: Path | None = None

    def __post_init__(self) -> None:
        if sum(map(bool, (self.tasks, self.texts, self.prompts))) != 1:
            raise UserError("dualm evaluate: expected one of --tasks NAMES, --text FILES and --answers FILES")
        for name, least in (("limit", 1), ("batch", 1), ("show", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name}: got {value}, expected at least {least}")
        if self.prompts:
            for mode in self.mode_names:
                GENERATION_MODES.choose(mode, "--modes")
        else:
            self.scorings()

    @property
    def mode_names(self) -> tuple[str, ...]:
        return self.modes or (TASK_MODES if self.tasks else TEXT_MODES if self.texts else tuple(GENERATION_MODES))

    def scorings(self) -> list[Scoring]:
        """One for each mode. Raises UserError for an unknown one, or guidance where there can be none."""
        how = {"draws": self.draws, "seed": self.seed, "guidance": self.guidance, "mask_padding": self.mask_padding}
        return [Scoring(mode, **how) for mode in self.mode_names]

    @property
    def folder(self) -> Path | None:
        """Where the results go: `out`, or `evaluation` in the run directory; None if the model is in no run."""
        in_run = self.run / "evaluation" if (self.run / "recipe.yaml").is_file() else None
        return self.out or in_run

    @property
    def name(self) -> str:
        """Of its files: what was measured, how, and on how much of it."""
        what = self.tasks or tuple(path.stem for path in self.texts + self.prompts)
        short = what[:4] if len(what) <= 4 else (*what[:3], f"{len(what) - 3}-more")
        limit = f"-limit{self.limit}" if self.limit else ""
        two_stage = "-two-stage" if self.answering.two_stage else ""
        match = f"-{self.answering.match}{two_stage}" if self.prompts else ""
        return f"{'+'.join(short)}-{'+'.join(self.mode_names)}{match}{limit}".replace("/", "_").replace(":", "_")


def evaluate(what: Evaluation, say: Callable[[str], None]) -> RenderableType:
    """Measure, write the files after every result, and return the table. `say` hears what is being measured.

    Raises:
        UserError: an unknown task, files or a model that cannot be read; before anything is measured.
    """
    model = LanguageModel.load(what.run, what.device, what.precision)
    if what.folder:
        report.make_folder(what.folder)
    measure = _tasks if what.tasks else _texts if what.texts else _answers
    settings = {"model": str(model.folder), "settings": _plain(what)}
    results: list[TaskResult | TextResult | AnswerResult] = []
    for result in measure(what, model, say):
        results.append(result)
        if what.folder:
            report.write(what.folder, what.name, settings, results)
    if what.prompts:
        return report.answer_table(results, str(model.folder), what.show)  # type: ignore[arg-type]
    table = report.task_table if what.tasks else report.text_table
    return table(results, str(model.folder))  # type: ignore[arg-type]


def _tasks(what: Evaluation, model: LanguageModel, say: Callable[[str], None]) -> Iterator[TaskResult]:
    from dualm.evaluation.harness import evaluate_task, load_tasks
    from dualm.evaluation.lm_eval import DualLM

    tasks = load_tasks(what.tasks, what.data)
    for name, parts in tasks.items():
        for scoring in what.scorings():
            say(f"{name}, mode {scoring.mode}")
            yield evaluate_task(DualLM(model, scoring, what.batch), name, parts, what.limit)


def _texts(what: Evaluation, model: LanguageModel, say: Callable[[str], None]) -> Iterator[TextResult]:
    for path in what.texts:
        read_text(path)
    for path in what.texts:
        for scoring in what.scorings():
            say(f"{path}, mode {scoring.mode}")
            yield perplexity(model, path, scoring, what.stride, what.batch)


def _answers(what: Evaluation, model: LanguageModel, say: Callable[[str], None]) -> Iterator[AnswerResult]:
    data = answers.pair_format(what.run)
    files = {path: answers.read_pairs(path, data)[: what.limit] for path in what.prompts}
    for path, pairs in files.items():
        for mode in what.mode_names:
            say(f"{path}, mode {mode}")
            yield answers.evaluate_answers(model, path, pairs, mode, what.answering)


def _plain(what: Evaluation) -> dict[str, object]:
    plain = asdict(what) | {"modes": list(what.mode_names)}
    return {key: _text(value) for key, value in plain.items()}


def _text(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return [_text(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
