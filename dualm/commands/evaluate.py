"""`dualm evaluate RUN`: scores on tasks, perplexity of texts, or how often the responses to prompts are right."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dualm.commands.options import add_batch, add_device, add_run, names

HELP = "score a model on tasks or answers to prompts, or measure its perplexity on texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--tasks", metavar="NAMES", help="such as blimp,lambada, or names of lm-eval's tasks")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text files instead of tasks")
    parser.add_argument(
        "--answers",
        nargs="+",
        default=[],
        metavar="FILE",
        help="prompts with responses, in the format of the run's data",
    )
    parser.add_argument(
        "--modes",
        metavar="NAMES",
        help="such as ar,prefix,pll,mc (the default; for texts ar,mc, for answers ar,prefix,diffusion)",
    )
    parser.add_argument("--data", metavar="DIR", help="where the files of the tasks are, at any depth")
    parser.add_argument("--limit", type=int, help="documents per task or subtask, prompts per file (default: all)")
    parser.add_argument("--stride", type=int, help="tokens scored per window of a text (default: half the context)")
    parser.add_argument("--draws", type=int, default=32, help="masks per pair or window in mode mc (default 32)")
    parser.add_argument("--guidance", type=float, default=0.0, help="weight of classifier-free guidance (default 0)")
    parser.add_argument(
        "--mask-padding", type=int, default=0, metavar="N", help="mc, chain, pll: masks after a text up to N tokens"
    )
    parser.add_argument("--match", default="exact", help="answers: exact | begins | final_answer (default exact)")
    parser.add_argument(
        "--sampler", default="confidence", help="answers by diffusion, as in generate (default confidence)"
    )
    parser.add_argument("--steps", type=int, help="answers by diffusion: network calls (default: tokens)")
    parser.add_argument("--two-stage", metavar="MARK", help="answers by diffusion: decode what follows MARK once more")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="answers: print N of each file and mode")
    parser.add_argument("--seed", type=int, default=0, help="decides the masks of mode mc (default 0)")
    add_batch(parser, 8)
    add_device(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of the results (default: RUN/evaluation)")


def run(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.answers import Answering
    from dualm.evaluation.evaluate import Evaluation, evaluate
    from dualm.generation.samplers import Denoising

    what = Evaluation(
        run=Path(arguments.run),
        tasks=names(arguments.tasks),
        texts=tuple(map(Path, arguments.text)),
        prompts=tuple(map(Path, arguments.answers)),
        answering=Answering(
            match=arguments.match,
            two_stage=arguments.two_stage,
            denoising=Denoising(arguments.sampler, arguments.steps, guidance=arguments.guidance),
            seed=arguments.seed,
            batch=arguments.batch,
        ),
        show=arguments.show,
        modes=names(arguments.modes),
        data=Path(arguments.data) if arguments.data else None,
        limit=arguments.limit,
        stride=arguments.stride,
        draws=arguments.draws,
        guidance=arguments.guidance,
        mask_padding=arguments.mask_padding,
        seed=arguments.seed,
        batch=arguments.batch,
        device=arguments.device,
        precision=arguments.precision,
        out=Path(arguments.out) if arguments.out else None,
    )
    with Console(file=sys.stderr).status("reading the model") as status:
        table = evaluate(what, status.update)
    Console().print(table)
    if what.folder:
        print(f"results: {what.folder / what.name}.json, .csv")
