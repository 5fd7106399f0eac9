"""The command line: its parser, and one line for a user's mistake. The commands are files in dualm/commands."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from dualm import __version__
from dualm.commands import COMMANDS, module
from dualm.commands.options import is_first_rank
from dualm.errors import UserError

OPTIONAL = {  # package: how to get it
    **dict.fromkeys(("lm_eval", "transformers"), "pip install -r requirements-eval.txt"),
    **dict.fromkeys(
        ("mauve", "faiss"), "pip install mauve-text==0.4.0 faiss-cpu==1.15.1 (mauve-text is under the GPL)"
    ),
    "submitit": "pip install -r requirements-sweep.txt",
    **dict.fromkeys(("pandas", "matplotlib", "plotly"), "pip install -r requirements-analysis.txt"),
}


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands. One command is parsed without importing what the others need."""
    top = argparse.ArgumentParser("dualm", description="Train one transformer as AR model and masked diffusion model.")
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--local_rank", help=argparse.SUPPRESS)  # from the deepspeed launcher; LOCAL_RANK is what counts
    commands = top.add_subparsers(required=True, metavar="command")
    for name in names:
        command = module(name)
        made_with = getattr(command, "PARSER", {})
        sub = commands.add_parser(name, help=command.HELP, description=command.HELP, **made_with)
        if made_with:
            sub.set_defaults(debug=False)
        else:
            sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.add_arguments(sub)
        sub.set_defaults(run_command=command.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. A user's error is one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    top = parser([argv[0]] if argv and argv[0] in COMMANDS else COMMANDS)
    arguments, rest = top.parse_known_args(argv)
    listed = next((name for name in ("overrides", "prompts") if name in arguments), None)
    if unknown := [word for word in rest if word.startswith("-") or listed is None]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if listed:  # the rest are those that follow an option
        setattr(arguments, listed, getattr(arguments, listed) + rest)
    try:
        arguments.run_command(arguments)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in OPTIONAL:
            raise
        print(f"dualm: {library} is not installed, expected after: {OPTIONAL[library]}", file=sys.stderr)
        return 2
    except (UserError, OSError) as error:
        if arguments.debug or not _is_the_users(error):
            raise
        if is_first_rank():
            print(f"dualm: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _is_the_users(error: Exception) -> bool:
    return isinstance(error, UserError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)


def _one_line(error: Exception) -> str:
    return (
        f"{error.filename or 'disk'}: {error.strerror}" if isinstance(error, OSError) else " ".join(str(error).split())
    )
