"""Diffusion made visible: in the terminal while it runs, and as a page that plays it again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from dualm.data.tokenizer import MASK, PAD
from dualm.generation.diffusion import Step

Decode = Callable[[Sequence[int]], str]
COLOURS = ("blue", "cyan", "green", "yellow", "red")  # of tokens by when they were committed, early to late


def page(start: np.ndarray, steps: Sequence[Step], decode: Decode, title: str, about: str) -> str:
    """A self-contained HTML page that plays how row 0 of `steps` filled the masks of `start` `[length]`.

    No script or style comes from elsewhere, and the page forbids itself to ask for any.
    """
    length = int(np.flatnonzero(start != PAD)[-1]) + 1
    trace = {
        "title": title,
        "about": about,
        "start": [None if token == MASK else decode([token]) for token in start[:length].tolist()],
        "steps": [_frame(step, decode) for step in steps],
    }
    data = json.dumps(trace, ensure_ascii=False).replace("<", "\\u003c")  # "</script>" in a text ends no script
    template = resources.files("dualm.generation").joinpath("trace.html").read_text(encoding="utf-8")
    return template.replace("/*TRACE*/", data)


def _frame(step: Step, decode: Decode) -> dict[str, Any]:
    commits = np.flatnonzero(step.committed[0]).tolist()
    return {
        "commit": [
            [position, decode([step.tokens[0, position]]), round(float(step.confidence[0, position]), 4)]
            for position in commits
        ],
        "remask": np.flatnonzero(step.remasked[0]).tolist(),
    }


def write_page(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def watch(
    start: np.ndarray, steps: Iterable[Step], decode: Decode, console: Console, pause: float = 0.05
) -> Iterator[Step]:
    """Pass `steps` on, and draw row 0 after each of them: when was which token committed?"""
    when = np.zeros(start.shape, dtype=int)
    with Live(console=console, refresh_per_second=30) as live:
        for number, step in enumerate(steps, 1):
            when = np.where(step.committed[0], number, np.where(step.remasked[0], 0, when))
            live.update(picture(step.tokens[0], when, number, start == MASK, decode))
            yield step
            time.sleep(pause if console.is_terminal else 0)


def picture(tokens: np.ndarray, when: np.ndarray, now: int, free: np.ndarray, decode: Decode) -> Text:
    """A canvas `[length]` in colours: given tokens bold, masks as ░, the others by the step `when` they were committed."""
    text = Text().append(f"step {now}\n", "dim")
    for token, step, is_free in zip(tokens.tolist(), when.tolist(), free.tolist(), strict=True):
        if token == PAD:
            continue
        if token == MASK:
            text.append("░", "dim")
        elif not is_free:
            text.append(decode([token]), "bold")
        else:
            colour = COLOURS[(len(COLOURS) - 1) * (step - 1) // max(1, now - 1)]
            text.append(decode([token]), f"reverse {colour}" if step == now else colour)
    return text
