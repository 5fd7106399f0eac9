"""The commands of `dualm`: one thin file each, with HELP, `add_arguments(parser)` and `run(arguments)`.

They import what they need when they run, so that `dualm --help` needs no torch.
"""

from __future__ import annotations

from types import ModuleType

from dualm.commands import (
    analyze,
    evaluate,
    export,
    generate,
    keys,
    lm_eval,
    locality,
    plan,
    prepare,
    quality,
    results,
    show,
    sweep,
    train,
)

COMMANDS: dict[str, ModuleType] = {
    "prepare": prepare,
    "plan": plan,
    "train": train,
    "show": show,
    "generate": generate,
    "evaluate": evaluate,
    "locality": locality,
    "quality": quality,
    "lm-eval": lm_eval,
    "export": export,
    "sweep": sweep,
    "results": results,
    "analyze": analyze,
    "keys": keys,
}
