"""`dualm generate RUN [PROMPT ...]`: continue prompts, or fill the masks of a text."""

from __future__ import annotations

import argparse
from pathlib import Path

from dualm.commands.options import add_batch, add_device, add_run
from dualm.generation.samplers import SAMPLERS, Denoising

HELP = "continue prompts, or fill the masks of a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Denoising()
    add_run(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts to continue; none: begin a document")
    parser.add_argument("--mode", default="ar", help="ar | prefix | diffusion (default ar)")
    parser.add_argument("--infill", metavar="TEXT", help="fill the <mask> and <mask:N> in TEXT, by diffusion")
    parser.add_argument("--max-tokens", type=int, help="length of a continuation (default 64, at most the context)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the most likely token (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k most likely tokens (default all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the nucleus of this probability (default 1)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other texts (default 0)")
    diffusion = parser.add_argument_group("diffusion")
    diffusion.add_argument("--sampler", default=default.sampler, help=f"{' | '.join(SAMPLERS)} ({default.sampler})")
    diffusion.add_argument("--steps", type=int, help="network calls, per block or window (default: as many as tokens)")
    diffusion.add_argument("--block", type=int, help="block-wise: so many tokens at once, left to right, from a cache")
    diffusion.add_argument(
        "--stride", type=int, help="MDLM's semi-autoregressive windows: whole contexts, each so many tokens further on"
    )
    diffusion.add_argument("--guidance", type=float, default=0.0, help="weight of classifier-free guidance (default 0)")
    diffusion.add_argument("--gamma", type=float, default=default.gamma, help=f"entropy_bound: nats ({default.gamma})")
    diffusion.add_argument("--tau", type=float, default=default.tau, help=f"threshold: probability ({default.tau})")
    diffusion.add_argument("--eta", type=float, default=default.eta, help=f"remask: probability ({default.eta})")
    diffusion.add_argument(
        "--noise-removal",
        type=float,
        default=default.noise_removal,
        metavar="T",
        help=f"end at mask rate T, then take the likeliest tokens; MDLM 1e-5 ({default.noise_removal:g}: none)",
    )
    diffusion.add_argument("--watch", action="store_true", help="show in the terminal what each step commits")
    diffusion.add_argument("--trace", type=Path, metavar="FILE", help="write a page that plays the unmasking")
    output = parser.add_argument_group("output")
    output.add_argument("--count", type=int, default=1, help="texts per prompt (default 1)")
    output.add_argument("--out", type=Path, metavar="FILE", help="write the texts as JSON lines, for dualm quality")
    add_batch(parser, 16)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from dualm.commands.generating import generate

    generate(arguments)
