"""The readings of a model: the ways in which validation reads it, and their names and colours in tables and figures.

ar                 causal, all targets
ar_second_half     causal, on exactly the targets of `prefix`
prefix             the first half read both ways, the targets after it
md                 NELBO, the diffusion bound: uniform t, weights 1/t
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dualm.data.windows import Window
from dualm.objectives.autoregressive import autoregressive, next_token, with_prefix
from dualm.objectives.example import Example, Objective
from dualm.objectives.masked_diffusion import MaskedDiffusion, maskable
from dualm.registry import Registry

Marker = Literal["circle", "square", "triangle", "diamond", "star"]


@dataclass(frozen=True)
class Reading:
    """One way to read a window of tokens `[context + 1]`, and its name in metrics, tables and figures."""

    key: str  # in the analyses
    metric: str  # in nats per token; with `_se` its standard error
    label: str  # in tables of one run
    objective: Callable[[bool], Objective]  # bool: whether masked diffusion outputs are shifted
    scored: Callable[[Window], int]  # how many tokens of a window its loss averages over
    draws: int = 1  # examples per window, their u spread over [0, 1)
    bound: bool = False  # an upper bound of the loss
    title: str = ""  # in figures; "": it is not drawn
    loss: str = ""
    colour: str = ""  # of Okabe and Ito: distinct in any colour vision
    marker: Marker = "circle"

    @property
    def bits(self) -> str:
        """The metric in bits per byte."""
        return bits_per_byte(self.metric)


def bits_per_byte(metric: str) -> str:
    return f"{metric.removesuffix('_nll').removesuffix('_nelbo')}_bpb"


def of_source(metric: str, source: str) -> str:
    """A metric on the validation data of one source: `valid/speech/ar_nll`."""
    return metric.replace("valid/", f"valid/{source}/", 1)


def half(window: Window) -> int:
    """Where the second half of a window begins; after a prompt, where the response begins."""
    return window.given or len(window.inputs) // 2


def prefix(window: Window, u: float, rng: np.random.Generator) -> Example:
    return with_prefix(window, half(window))


def causal_half(window: Window, u: float, rng: np.random.Generator) -> Example:
    return next_token(window, first=half(window) - 1)


def targets_from(window: Window, start: int) -> int:
    """How many tokens of a window, from `start` on, next-token prediction scores."""
    return int(np.count_nonzero(next_token(window, first=start - 1).weights))


def maskable_tokens(window: Window) -> int:
    return len(maskable(window))


READINGS = Registry(
    "reading",
    {
        "ar": Reading(
            "ar",
            "valid/ar_nll",
            "AR NLL, causal",
            lambda shifted: autoregressive,
            lambda window: targets_from(window, window.given),
            title="AR reading",
            loss="AR NLL",
            colour="#0072B2",
            marker="circle",
        ),
        "md": Reading(
            "md",
            "valid/md_nelbo",
            "MD NELBO, bidirectional (upper bound)",
            lambda shifted: MaskedDiffusion(shifted=shifted),
            maskable_tokens,
            draws=4,
            bound=True,
            title="MD reading",
            loss="MD NELBO",
            colour="#D55E00",
            marker="square",
        ),
        "prefix": Reading(
            "prefix",
            "valid/prefix_nll",
            "prefix NLL, second half of each window",
            lambda shifted: prefix,
            lambda window: targets_from(window, half(window)),
            title="prefix reading",
            loss="prefix NLL",
            colour="#009E73",
            marker="triangle",
        ),
        "ar_second_half": Reading(
            "ar_second_half",
            "valid/ar_nll_second_half",
            "AR NLL on that same second half",
            lambda shifted: causal_half,
            lambda window: targets_from(window, half(window)),
        ),
    },
)
UNIGRAM = "valid/unigram_nll"  # not a reading of the model: the loss of a model that ignores all context


DRAWN = [reading for reading in READINGS.values() if reading.title]  # in their order in figures


def table(metrics: Collection[str]) -> list[tuple[str, str, str]]:
    """The lines of a run's table that have a number in `metrics`: metric, label, metric in bits per byte."""
    own = [(reading.metric, reading.label, reading.bits) for reading in READINGS.values()]
    lines = [*own, (UNIGRAM, "unigram baseline", bits_per_byte(UNIGRAM))]
    sources = dict.fromkeys(
        name.split("/")[1] for name in metrics if name.count("/") == 2 and name.startswith("valid/")
    )
    for source in sources:
        lines += [
            (of_source(metric, source), f"{source}: {label}", of_source(bits, source)) for metric, label, bits in own
        ]
    return [line for line in lines if line[0] in metrics]
