"""The shifted transformer, its attention masks, and the kernels that run them.

It knows nothing of objectives: it gets tokens, an attention mask and positions to score.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualm.model.attention import AttentionMask
    from dualm.model.transformer import Losses, Transformer

__all__ = ["AttentionMask", "Losses", "Transformer"]


def __getattr__(name: str) -> Any:
    """A class of `__all__`, whose module is imported when it is first asked for: counting parameters needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module("dualm.model.attention" if name == "AttentionMask" else "dualm.model.transformer")
    return getattr(module, name)
