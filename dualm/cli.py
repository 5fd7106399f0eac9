"""The command line: every command is a thin call into the package.

dualm prepare RECIPE [key=value ...]            corpus -> tokenizer -> token shards
dualm train RECIPE [key=value ...]              train, or resume, a run
dualm plan RECIPE [key=value ...]               what it would cost, without doing it
dualm sweep SWEEP.yaml [key=value ...]          train every point of a sweep, or go on with it
dualm results DIR                               the table of a sweep's runs, made anew from their directories
dualm analyze DIR                               overfitting, best alpha, scaling, as a report to look at
dualm show RUN                                  the last validation and samples of a run
dualm generate RUN [PROMPT ...]                 text by AR decoding, prefix decoding or diffusion
dualm export RUN --to DIR                       the model as a folder that transformers loads
dualm evaluate RUN --tasks blimp --data DIR     scores on tasks, or with --text FILE the perplexity of texts
dualm evaluate RUN --answers FILE               how often the responses to prompts are right
dualm locality RUN --text FILE                  loss of masked tokens by their distance to a visible one
dualm quality SAMPLES.jsonl --judge DIR         perplexity, entropy and repetition of generated texts
dualm lm-eval ...                               lm-eval's own command line, with the model `dualm`
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dualm import __version__
from dualm.config import load
from dualm.errors import UserError
from dualm.generation import options

OPTIONAL = {  # package: how to get it
    **dict.fromkeys(("lm_eval", "transformers"), "pip install -r requirements-eval.txt"),
    **dict.fromkeys(
        ("mauve", "faiss"), "pip install mauve-text==0.4.0 faiss-cpu==1.15.1 (mauve-text is under the GPL)"
    ),
    "submitit": "pip install -r requirements-sweep.txt",
    **dict.fromkeys(("pandas", "sklearn", "matplotlib", "plotly"), "pip install -r requirements-analysis.txt"),
}


def prepare(arguments: argparse.Namespace) -> None:
    from dualm.data.prepare import prepare

    recipe = load(arguments.recipe, arguments.overrides)
    print(prepare(recipe.data, recipe.model.vocab))


def train(arguments: argparse.Namespace) -> None:
    from dualm.summary import run_summary
    from dualm.training.loop import train

    run = train(load(arguments.recipe, arguments.overrides), arguments.resume)
    if _is_first_rank():
        Console().print(run_summary(run))


def plan(arguments: argparse.Namespace) -> None:
    from dualm.interop.initialize import check_sizes
    from dualm.summary import plan_summary
    from dualm.training.cost import cost

    recipe = load(arguments.recipe, arguments.overrides)
    check_sizes(recipe.model)
    Console().print(plan_summary(arguments.recipe, cost(recipe, arguments.gpus), arguments.gpus, arguments.flops))


def sweep(arguments: argparse.Namespace) -> None:
    from dualm.sweep import command

    path, only, parallel = Path(arguments.sweep), arguments.only, arguments.parallel
    if parallel is not None and parallel < 1:
        raise UserError(f"--parallel: got {parallel}, expected at least 1")
    if arguments.dry_run:
        Console().print(command.plan(path, arguments.overrides, only, parallel, arguments.executor, arguments.flops))
    else:
        sys.exit(command.sweep(path, arguments.overrides, only, parallel, arguments.executor))


def results(arguments: argparse.Namespace) -> None:
    from dualm.sweep.results import write

    table, notes = write(Path(arguments.sweep))
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    print(f"{len(table)} rows of {table['run'].nunique()} runs: {Path(arguments.sweep) / 'results.parquet'}, .csv")


def analyze(arguments: argparse.Namespace) -> None:
    from dualm.analysis.command import run

    if arguments.suggest < 0:
        raise UserError(f"--suggest: got {arguments.suggest}, expected how many runs to suggest")
    folder = Path(arguments.sweep)
    default = (folder if folder.is_dir() else folder.parent) / "analysis"
    run(folder, Path(arguments.out) if arguments.out else default, arguments.suggest)


def show(arguments: argparse.Namespace) -> None:
    from dualm.summary import run_summary

    Console().print(run_summary(Path(arguments.run)))


def export(arguments: argparse.Namespace) -> None:
    from dualm.interop.export import export

    print(export(arguments.run, arguments.to))


def generate(arguments: argparse.Namespace) -> None:
    from dualm.generation.command import run

    run(arguments)


def evaluate(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.answers import Answering
    from dualm.evaluation.evaluate import Evaluation, evaluate
    from dualm.generation.samplers import Denoising

    what = Evaluation(
        run=Path(arguments.run),
        tasks=_names(arguments.tasks),
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
        modes=_names(arguments.modes),
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


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (listed or "").split(",") if name.strip()))


def locality(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.locality import locality, locality_table, write
    from dualm.language_model import LanguageModel

    for name in ("draws", "batch"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}: got {getattr(arguments, name)}, expected at least 1")
    model = LanguageModel.load(arguments.run, arguments.device)
    places = locality(model, Path(arguments.text), arguments.draws, arguments.seed, arguments.batch)
    Console().print(locality_table(places, f"{arguments.run}: masked tokens of {arguments.text}, nats per token"))
    if arguments.out:
        write(places, Path(arguments.out))


def quality(arguments: argparse.Namespace) -> None:
    from dualm.evaluation import report
    from dualm.evaluation.judge import Judge
    from dualm.evaluation.quality import quality, read_samples

    if arguments.reference and not arguments.judge:
        raise UserError(
            "--reference: got no --judge beside it, expected one: MAUVE compares texts in its hidden states"
        )
    texts = read_samples(Path(arguments.samples))
    reference = read_samples(Path(arguments.reference)) if arguments.reference else ()
    judge = Judge.load(arguments.judge, arguments.device) if arguments.judge else None
    measured = quality(texts, judge, reference)
    Console().print(report.quality_table(measured))
    if arguments.out:
        report.write_quality(Path(arguments.out), measured)


def lm_eval(arguments: argparse.Namespace) -> None:
    from dualm.evaluation.lm_eval import command_line

    command_line(arguments.arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("dualm", description="Train one transformer as AR model and masked diffusion model.")
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--local_rank", help=argparse.SUPPRESS)  # from the deepspeed launcher; LOCAL_RANK is what counts
    commands = top.add_subparsers(required=True, metavar="command")

    def command(action, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = commands.add_parser(action.__name__, help=text, description=text)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(action=action)
        return sub

    def recipe_command(action, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = command(action, text)
        sub.add_argument("recipe", help="a YAML file such as recipes/quickstart.yaml")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of the recipe, anywhere")
        return sub

    recipe_command(prepare, "make token shards of the recipe's corpus")
    trainer = recipe_command(train, "train the recipe, or resume its run")
    trainer.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from the newest checkpoint"
    )
    planner = recipe_command(plan, "say what the recipe costs, without training")
    planner.add_argument("--gpus", type=int, default=1, help="ranks that share the work (default 1)")
    planner.add_argument("--flops", type=float, default=4e14, help="FLOP/s that one GPU sustains (default 4e14)")
    sweeper = command(sweep, "train every point of a sweep, or go on with it")
    sweeper.add_argument("sweep", help="a YAML file such as sweeps/repetition-50-cpu.yaml")
    sweeper.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of every point's recipe; run.dir=DIR: the sweep's folder",
    )
    sweeper.add_argument("--only", metavar="PATTERN", help="the points of such names alone, for instance 'R128-*'")
    sweeper.add_argument("--dry-run", action="store_true", help="list the points and their cost, train nothing")
    sweeper.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="runs at a time (default: the sweep's, else one per GPU, else per core)",
    )
    sweeper.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="where: here (default), or handed in to Slurm"
    )
    sweeper.add_argument(
        "--flops", type=float, default=4e14, help="with --dry-run: FLOP/s that one GPU sustains (default 4e14)"
    )
    gatherer = command(results, "make the table of a sweep's runs anew from their directories")
    gatherer.add_argument("sweep", metavar="DIR", help="the folder of a sweep")
    analyst = command(analyze, "analyse the results of a sweep: overfitting, best alpha, scaling")
    analyst.add_argument("sweep", metavar="DIR", help="the folder of a sweep, or a results table (.parquet or .csv)")
    analyst.add_argument(
        "--suggest", type=int, default=0, metavar="N", help="write the N most telling runs to train next"
    )
    analyst.add_argument("--out", metavar="DIR", help="folder of the tables (default: DIR/analysis)")
    command(show, "print the last validation and samples of a run").add_argument("run", help="a run directory")
    options.add_arguments(command(generate, "continue prompts, or fill the masks of a text"))
    exporter = command(export, "write the model of a run as a folder that Hugging Face transformers loads")
    exporter.add_argument("run", help="a run directory, a checkpoint or an exported folder")
    exporter.add_argument("--to", required=True, metavar="DIR", help="the new folder")
    _evaluate_options(
        command(evaluate, "score a model on tasks or answers to prompts, or measure its perplexity on texts")
    )
    located = command(locality, "loss of masked tokens by their distance to the nearest visible token")
    located.add_argument("run", help="a run directory, a checkpoint or an exported folder")
    located.add_argument("--text", required=True, metavar="FILE", help="a text file")
    located.add_argument("--draws", type=int, default=4, help="masks per window, at stratified rates (default 4)")
    located.add_argument("--seed", type=int, default=0, help="decides the masks (default 0)")
    located.add_argument("--batch", type=int, default=32, help="windows at once (default 32)")
    located.add_argument("--device", help="such as cuda or cpu (default: the first GPU, if there is one)")
    located.add_argument("--out", metavar="FILE", help="write the table as CSV")
    judged = command(quality, "measure generated texts: perplexity under a judge, entropy, repetition")
    judged.add_argument("samples", help="a JSON Lines file with a field 'text', such as samples.jsonl of a run")
    judged.add_argument("--judge", metavar="DIR", help="a Hugging Face causal language model, such as GPT-2's folder")
    judged.add_argument("--reference", metavar="FILE", help="real texts in the same format, for MAUVE")
    judged.add_argument("--device", help="for the judge, such as cuda or cpu")
    judged.add_argument("--out", metavar="FILE", help="write the numbers as JSON, those of each sample as well")
    harness = commands.add_parser(
        "lm-eval", help="lm-eval's own command line, with the model dualm", prefix_chars="\0", add_help=False
    )  # none of its options are ours
    harness.add_argument("arguments", nargs=argparse.REMAINDER)
    harness.set_defaults(action=lm_eval, debug=False)
    return top


def _evaluate_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", help="a run directory, a checkpoint or an exported folder")
    sub.add_argument("--tasks", metavar="NAMES", help="such as blimp,lambada, or names of lm-eval's tasks")
    sub.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text files instead of tasks")
    sub.add_argument(
        "--answers",
        nargs="+",
        default=[],
        metavar="FILE",
        help="prompts with responses, in the format of the run's data",
    )
    sub.add_argument(
        "--modes",
        metavar="NAMES",
        help="such as ar,prefix,pll,mc (the default; for texts ar,mc, for answers ar,prefix,diffusion)",
    )
    sub.add_argument("--data", metavar="DIR", help="where the files of the tasks are, at any depth")
    sub.add_argument("--limit", type=int, help="documents per task or subtask, prompts per file (default: all)")
    sub.add_argument("--stride", type=int, help="tokens scored per window of a text (default: half the context)")
    sub.add_argument("--draws", type=int, default=32, help="masks per pair or window in mode mc (default 32)")
    sub.add_argument("--guidance", type=float, default=0.0, help="weight of classifier-free guidance (default 0)")
    sub.add_argument(
        "--mask-padding", type=int, default=0, metavar="N", help="mc, chain, pll: masks after a text up to N tokens"
    )
    sub.add_argument("--match", default="exact", help="answers: exact | begins | final_answer (default exact)")
    sub.add_argument(
        "--sampler", default="confidence", help="answers by diffusion, as in generate (default confidence)"
    )
    sub.add_argument("--steps", type=int, help="answers by diffusion: network calls (default: tokens)")
    sub.add_argument("--two-stage", metavar="MARK", help="answers by diffusion: decode what follows MARK once more")
    sub.add_argument("--show", type=int, default=0, metavar="N", help="answers: print N of each file and mode")
    sub.add_argument("--seed", type=int, default=0, help="decides the masks of mode mc (default 0)")
    sub.add_argument("--batch", type=int, default=8, help="sequences of full context at once (default 8)")
    sub.add_argument("--device", help="such as cuda or cpu (default: the first GPU, if there is one)")
    sub.add_argument("--precision", default="fp32", help="fp32 or bf16 (default fp32)")
    sub.add_argument("--out", metavar="DIR", help="folder of the results (default: RUN/evaluation)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. A user's error is one line on stderr and exit code 2."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    listed = next((name for name in ("overrides", "prompts") if name in arguments), None)
    if unknown := [word for word in rest if word.startswith("-") or listed is None]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if listed:  # the rest are those that follow an option
        setattr(arguments, listed, getattr(arguments, listed) + rest)
    try:
        arguments.action(arguments)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in OPTIONAL:
            raise
        print(f"dualm: {library} is not installed, expected after: {OPTIONAL[library]}", file=sys.stderr)
        return 2
    except (UserError, OSError) as error:
        if arguments.debug or not _is_the_users(error):
            raise
        if _is_first_rank():
            print(f"dualm: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _is_the_users(error: Exception) -> bool:
    return isinstance(error, UserError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)


def _one_line(error: Exception) -> str:
    return (
        f"{error.filename or 'disk'}: {error.strerror}" if isinstance(error, OSError) else " ".join(str(error).split())
    )


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"
