"""The loss of masked tokens by their distance to the nearest visible token.

Next to a visible token, predicting a masked one is nearly n-gram prediction; far from every visible token it is nearly
unconditional (Hong et al. 2026). This report shows how the loss and the masked tokens are distributed between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.table import Table

from dualm.data.tokenizer import MASK, PAD
from dualm.data.windows import Window, padded
from dualm.evaluation.perplexity import encode_document
from dualm.evaluation.result_files import csv_text, make_folder
from dualm.evaluation.statistics import weighted_mean
from dualm.evaluation.texts import read_text
from dualm.files import write_text
from dualm.language_model import LanguageModel
from dualm.model.transformer import never_predicted
from dualm.objectives.example import Batch, collate
from dualm.objectives.masked_diffusion import MaskedDiffusion
from dualm.objectives.time import stratified
from dualm.randomness import stream

DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 10**9)  # bins (a, b] in tokens
BANDS = (0.0, 1 / 3, 2 / 3, 1.0)  # of the mask rate t


@dataclass(frozen=True)
class DistanceBin:
    """The masked tokens at a distance in (`above`, `upto`], at mask rates in (`rate_above`, `rate_upto`]."""

    above: int
    upto: int
    rate_above: float
    rate_upto: float
    tokens: int
    loss: float  # nats per token
    standard_error: float  # over windows; nan for fewer than two

    @property
    def name(self) -> str:
        if self.upto == DISTANCES[-1]:
            return f"over {self.above}"
        return str(self.upto) if self.upto == self.above + 1 else f"{self.above + 1} to {self.upto}"


def distances(visible: np.ndarray) -> np.ndarray:
    """For every position of `visible` `[rows, length]` the number of tokens to the nearest visible one, 0 at itself."""
    length = visible.shape[1]
    positions = np.where(visible, np.arange(length), -10 * length)
    before = np.arange(length) - np.maximum.accumulate(positions, axis=1)
    mirrored = np.where(visible[:, ::-1], np.arange(length), -10 * length)
    after = (np.arange(length) - np.maximum.accumulate(mirrored, axis=1))[:, ::-1]
    return np.minimum(before, after)


def locality(model: LanguageModel, path: Path, draws: int, seed: int, batch: int) -> list[DistanceBin]:
    """Mask every window of a text file `draws` times at stratified rates, and sort the losses into bins."""
    tokens = np.concatenate(encode_document(model.tokenizer, read_text(path)))
    windows = [tokens[start : start + model.context + 1] for start in range(0, len(tokens) - 1, model.context)]
    read = list(_read(model, windows, draws, seed, batch))
    window, distance, rate, loss = (np.concatenate(column) for column in zip(*read, strict=True))
    rates = [(BANDS[0], BANDS[-1]), *pairwise(BANDS)]
    return [
        _bin(edges, band, window[here], loss[here], len(windows))
        for band in rates
        for edges in pairwise(DISTANCES)
        if (here := _within(distance, edges) & _within(rate, band)).any()
    ]


def _within(values: np.ndarray, edges: tuple[float, float]) -> np.ndarray:
    return (values > edges[0]) & (values <= edges[1])


def _bin(
    edges: tuple[int, int], band: tuple[float, float], window: np.ndarray, loss: np.ndarray, windows: int
) -> DistanceBin:
    counts = np.bincount(window, minlength=windows)
    mean, error = weighted_mean(np.bincount(window, loss, windows) / np.maximum(1, counts), counts)
    return DistanceBin(*edges, *band, len(loss), mean, error if (counts > 0).sum() > 1 else math.nan)


def _read(
    model: LanguageModel, windows: Sequence[np.ndarray], draws: int, seed: int, batch: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Window, distance, rate and loss of every masked token, `[n]` each, a batch at a time."""
    objective, length = MaskedDiffusion(shifted=model.shifted), model.context
    rates = stratified(stream(seed, "locality rates"), draws * len(windows)).reshape(draws, -1)
    asked = [(draw, index) for draw in range(draws) for index in range(len(windows))]
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        made = [
            objective(
                Window(padded(windows[index], length, PAD)), rates[draw, index], stream(seed, "locality", index, draw)
            )
            for draw, index in part
        ]
        made_batch = collate(made)
        row, output = np.divmod(made_batch.outputs.numpy(), length)
        inputs = made_batch.inputs.numpy()
        near = distances((inputs != MASK) & (inputs != PAD))[row, output + model.shifted]
        index = np.array([index for _, index in part])
        yield index[row], near, made_batch.rates[row], _losses(model, made_batch)


@torch.no_grad()
def _losses(model: LanguageModel, batch: Batch) -> np.ndarray:
    inputs, attention, outputs, targets, _ = batch.to(model.device).arguments
    with model.autocast():
        hidden = model.model.hidden(inputs, attention).flatten(0, 1).index_select(0, outputs)
        nll, _ = model.model.lm_head(hidden, targets, never_predicted(attention))
    return nll.double().cpu().numpy()


def locality_table(bins: Sequence[DistanceBin], title: str) -> Table:
    """Distances to the nearest visible token down, bands of the mask rate across, and the share of all masked tokens."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("distance")
    overall = [one for one in bins if (one.rate_above, one.rate_upto) == (BANDS[0], BANDS[-1])]
    bands = list(pairwise(BANDS))
    for heading in ("all t", *(f"t to {upto:.2f}" for _, upto in bands), "share"):
        table.add_column(heading, justify="right")
    total = sum(one.tokens for one in overall)
    for one in overall:
        by_band = {(other.rate_above, other.rate_upto): other for other in bins if other.above == one.above}
        cells = [by_band.get(band) for band in bands]
        losses = [f"{cell.loss:.3f}" if cell else "-" for cell in cells]
        mean = f"{one.loss:.3f} ± {one.standard_error:.3f}"
        table.add_row(one.name, mean, *losses, f"{one.tokens / total:.1%}")
    return table


def write(bins: Sequence[DistanceBin], path: Path) -> None:
    """CSV with one line for each bin, losses in nats per token. Raises UserError where the folder cannot be made."""
    make_folder(path.parent)
    write_text(path, csv_text([asdict(one) for one in bins]))
