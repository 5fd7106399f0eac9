"""How good samples are, without a reference: generative perplexity, entropy, repetition. With one: MAUVE.

Generative perplexity is that of another model, the judge. Text that repeats a few words is very likely under any judge,
so low perplexity alone proves nothing (Zheng et al. 2024, section 4). The entropy of the tokens of a sample is therefore
always given beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dualm.errors import UserError
from dualm.evaluation.judge import Judge
from dualm.evaluation.result_files import make_folder
from dualm.evaluation.tables import shown
from dualm.evaluation.texts import read_records
from dualm.files import write_json

NGRAMS = (1, 2, 3)
FEWEST = 20  # texts that a MAUVE of two clusters needs, ten each


@dataclass(frozen=True)
class Sample:
    tokens: int
    entropy: float  # nats
    perplexity: float | None  # under the judge; None without one, or where nothing could be scored


@dataclass(frozen=True)
class Quality:
    """Of a set of samples; tokens are the judge's, or without a judge words between white space."""

    unit: str  # tokens | words
    length: float  # mean tokens of a sample
    entropy: float  # nats per token: of the tokens within a sample, mean over the samples
    pooled_entropy: float  # nats per token: of all tokens together
    distinct: dict[int, float]  # by n: different n-grams / all n-grams, pooled
    perplexity: float | None  # exp of the mean loss of all tokens
    median_perplexity: float | None  # of the samples
    mauve: float | None
    samples: list[Sample] = field(repr=False)


def unigram_entropy(tokens: Sequence[Hashable]) -> float:
    """Entropy in nats of the frequencies of `tokens`: 0 if all are equal, log n if all n differ."""
    counts = np.array(list(Counter(tokens).values()), dtype=float)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def distinct(texts: Iterable[Sequence[Hashable]], n: int) -> float:
    """Different n-grams over all n-grams of some token sequences (Li et al. 2016); nan if they have none."""
    grams = Counter(tuple(tokens[i : i + n]) for tokens in texts for i in range(len(tokens) - n + 1))
    return len(grams) / grams.total() if grams else math.nan


def read_samples(path: Path) -> list[str]:
    """The field "text" of each line of a JSON Lines file. Raises UserError for a line without, or no text at all."""
    texts = []
    for position, record in read_records(path):
        if not isinstance(record.get("text"), str):
            raise UserError(f"{position}: got fields {', '.join(record)}, expected a field 'text' that holds a text")
        texts.append(record["text"])
    if not any(text.strip() for text in texts):
        raise UserError(f"{path}: holds no text, expected samples")
    return texts


def quality(texts: Sequence[str], judge: Judge | None = None, reference: Sequence[str] = ()) -> Quality:
    """Measure samples; with `reference` texts also MAUVE between the two, in the judge's last hidden states.

    Empty samples count in the length alone. Raises UserError if there are too few texts for MAUVE.
    """
    split = [judge.encode(text).tolist() if judge else text.split() for text in texts]
    losses = [judge.loss(np.array(tokens)) for tokens in split] if judge else []
    samples = [
        Sample(len(tokens), unigram_entropy(tokens) if tokens else math.nan, _perplexity(losses[i : i + 1]))
        for i, tokens in enumerate(split)
    ]
    perplexities = [sample.perplexity for sample in samples if sample.perplexity is not None]
    return Quality(
        unit="tokens" if judge else "words",
        length=float(np.mean([sample.tokens for sample in samples])),
        entropy=float(np.nanmean([sample.entropy for sample in samples])),
        pooled_entropy=unigram_entropy([token for tokens in split for token in tokens]),
        distinct={n: distinct(split, n) for n in NGRAMS},
        perplexity=_perplexity(losses),
        median_perplexity=float(np.median(perplexities)) if perplexities else None,
        mauve=mauve(judge, texts, reference) if judge and reference else None,
        samples=samples,
    )


def _perplexity(losses: Sequence[tuple[float, int]]) -> float | None:
    nats, tokens = sum(loss for loss, _ in losses), sum(count for _, count in losses)
    return math.exp(nats / tokens) if tokens else None


def mauve(judge: Judge, texts: Sequence[str], reference: Sequence[str]) -> float:
    """MAUVE (Pillutla et al. 2021) of two sets of texts: 1 if the judge's hidden states of both are distributed equally.

    It is near 0 for sets with nothing in common. Its authors use thousands of texts of similar length; with fewer, chance makes it too high or too low.
    """
    from mauve import compute_mauve

    kept, expected = ([text for text in some if text.strip()] for some in (texts, reference))
    if min(len(kept), len(expected)) < FEWEST:
        raise UserError(f"--reference: got {len(kept)} samples and {len(expected)} texts, expected {FEWEST} of each")
    features = [np.stack([judge.feature(text) for text in some]) for some in (expected, kept)]
    return float(compute_mauve(p_features=features[0], q_features=features[1]).mauve)


def quality_table(measured: Quality) -> RenderableType:
    """One line for each number: perplexity, right below it entropy, and a note that says why."""
    rows = {
        "samples": f"{len(measured.samples):,}",
        f"length, {measured.unit}": f"{measured.length:.1f}",
        "generative perplexity, pooled": shown(measured.perplexity, 2),
        "generative perplexity, median sample": shown(measured.median_perplexity, 2),
        f"unigram entropy of a sample, nats per {measured.unit.rstrip('s')}": f"{measured.entropy:.3f}",
        "unigram entropy, all samples together": f"{measured.pooled_entropy:.3f}",
        **{f"distinct-{n}": shown(share, 3) for n, share in measured.distinct.items()},
        "MAUVE": shown(measured.mauve, 3),
    }
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        if value != "-":
            table.add_row(name, value)
    note = "Repeating a few words makes perplexity low: believe it only where entropy is that of real text."
    return Group(table, Text(note, "dim"))


def write(path: Path, measured: Quality) -> None:
    """The numbers as JSON, those of each sample as well."""
    make_folder(path.parent)
    write_json(path, asdict(measured))
