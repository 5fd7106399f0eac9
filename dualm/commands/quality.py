"""`dualm quality SAMPLES.jsonl --judge DIR`: perplexity, entropy and repetition of generated texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dualm.commands.options import add_device
from dualm.errors import UserError

HELP = "measure generated texts: perplexity under a judge, entropy, repetition"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("samples", help="a JSON Lines file with a field 'text', such as samples.jsonl of a run")
    parser.add_argument("--judge", metavar="DIR", help="a Hugging Face causal language model, such as GPT-2's folder")
    parser.add_argument("--reference", metavar="FILE", help="real texts in the same format, for MAUVE")
    add_device(parser, precision=False)
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON, those of each sample as well")


def run(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.judge import Judge
    from dualm.evaluation.quality import quality, quality_table, read_samples, write

    if arguments.reference and not arguments.judge:
        raise UserError("--reference: got no --judge, expected one as well: MAUVE compares texts in its hidden states")
    texts = read_samples(Path(arguments.samples))
    reference = read_samples(Path(arguments.reference)) if arguments.reference else ()
    judge = Judge.load(arguments.judge, arguments.device) if arguments.judge else None
    measured = quality(texts, judge, reference)
    Console().print(quality_table(measured))
    if arguments.out:
        write(Path(arguments.out), measured)
