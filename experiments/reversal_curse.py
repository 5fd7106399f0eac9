"""Does learning "A is B" teach "B is A"? An AR model, a dual model and a masked diffusion model on the same pairs.

    python -m experiments.reversal_curse --data reversal_curse/reverse_experiments/june_version_7921032488
    python -m experiments.reversal_curse --data DIR --epochs 2 --limit 60

Trains recipes/reversal-curse.yaml at three AR ratios (a run that is there already is used again), asks every model the
four test files of Berglund et al. (2023), by each way of generation that it was trained for, and prints the share of right
answers in percent, with its 95 % interval (Wilson 1927). `same` is the direction in which a fact was trained, `reversed` the
other one. All prompts have wordings that were not trained. The 300 prompts of a file are 10 wordings of each of 30 facts, so
they are not independent, and the true intervals are wider. Chance is the share that would be right if each answer were
another expected one of the file, drawn at random. A deed may be worded in several ways and only one of them is right, so
shares of names are higher.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from dualm.config import load
from dualm.evaluation.answers import Answering, AnswerResult, evaluate_answers, pair_format, read_pairs
from dualm.generation.samplers import Denoising
from dualm.language_model import LanguageModel

RECIPE = Path(__file__).parent.parent / "recipes" / "reversal-curse.yaml"
TRAINED_ON = ("p2d_prompts_train", "d2p_prompts_train", "both_prompts_train")
PAIRS = 3600  # in these
VALIDATED_ON = ("p2d_prompts_test", "d2p_prompts_test")
MODELS = {  # name: AR ratio, ways to generate
    "ar": (1.0, ("ar",)),
    "dual": (0.5, ("ar", "diffusion")),
    "md": (0.0, ("diffusion",)),
}
TESTS = {  # what is asked for, and how: file
    ("deed", "same"): "p2d_prompts_test",
    ("deed", "reversed"): "d2p_reverse_prompts_test",
    ("name", "same"): "d2p_prompts_test",
    ("name", "reversed"): "p2d_reverse_prompts_test",
}


def train(name: str, alpha: float, epochs: int, data: Path, out: Path) -> Path:
    run, steps = out / name, epochs * PAIRS // load(RECIPE).train.global_batch
    files = {"train": TRAINED_ON, "valid": VALIDATED_ON}
    keys = [
        f"data.{split}=[{','.join(str(data / f'{stem}.jsonl') for stem in stems)}]" for split, stems in files.items()
    ]
    command = [sys.executable, "-m", "dualm", "train", str(RECIPE), *keys, f"data.dir={out / 'shards'}"]
    subprocess.run(
        [*command, f"run.dir={run}", f"objective.alpha={alpha}", f"train.steps={steps}", f"data.repetitions={epochs}"],
        check=True,
    )
    return run


def ask(
    run: Path, modes: Sequence[str], data: Path, limit: int | None, how: Answering
) -> dict[str, list[AnswerResult]]:
    """The results of every test file in each mode, in the order of TESTS."""
    model, written = LanguageModel.load(run), pair_format(run)
    files = {data / f"{stem}.jsonl": stem for stem in TESTS.values()}
    pairs = {path: read_pairs(path, written) for path in files}
    return {
        mode: [evaluate_answers(model, path, spread(pairs[path], limit), mode, how) for path in files] for mode in modes
    }


def spread(pairs: Sequence[tuple[str, ...]], limit: int | None) -> Sequence[tuple[str, ...]]:
    """At most `limit` pairs from all over the file, so that many facts are among them."""
    return pairs[:: -(-len(pairs) // limit)] if limit else pairs


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a binomial share: it has a width at 0 and at 1 as well."""
    centre, spread = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - spread) / (1 + z**2 / n)), min(1.0, (centre + spread) / (1 + z**2 / n))


def chance(result: AnswerResult) -> float:
    """How often one expected response of the file, drawn at random, is another's."""
    counts = Counter(answer.expected.strip().lower() for answer in result.answers)
    return sum((count / result.prompts) ** 2 for count in counts.values())


def cell(result: AnswerResult) -> str:
    low, high = wilson(result.accuracy, result.prompts)
    return f"{result.accuracy:.0%} [{low:.0%}, {high:.0%}]"


def table(rows: dict[tuple[str, str], list[AnswerResult]]) -> Table:
    """One line for each (model, mode), and one for chance."""
    made = Table(title="right answers, 95 % interval", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("model", "generation", *(f"{what}, {direction}" for what, direction in TESTS)):
        made.add_column(heading)
    for (name, mode), results in rows.items():
        made.add_row(name, mode, *map(cell, results))
    made.add_section()
    made.add_row("chance", "", *(f"{chance(result):.1%}" for result in next(iter(rows.values()))))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the .jsonl files")
    parser.add_argument("--out", type=Path, default=Path("runs/reversal-curse"))
    parser.add_argument("--epochs", type=int, default=10, help="passes over the pairs (default 10)")
    parser.add_argument("--limit", type=int, help="prompts per file (default: all)")
    parser.add_argument("--sampler", default="confidence")
    parser.add_argument("--denoising-steps", type=int, help="network calls per response (default: one per token)")
    parser.add_argument("--batch", type=int, default=32)
    a = parser.parse_args()
    how = Answering("begins", denoising=Denoising(a.sampler, a.denoising_steps), batch=a.batch)
    rows: dict[tuple[str, str], list[AnswerResult]] = {}
    for name, (alpha, modes) in MODELS.items():
        run = train(name, alpha, a.epochs, a.data.resolve(), a.out.resolve())
        rows |= {
            (f"{name}, alpha {alpha:g}", mode): found for mode, found in ask(run, modes, a.data, a.limit, how).items()
        }
        Console(width=140).print(table(rows))


if __name__ == "__main__":
    main()
