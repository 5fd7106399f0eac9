"""dualm: train one transformer as autoregressive model and masked diffusion model at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualm.language_model import LanguageModel

__version__ = "0.3.0"
NUMERICS = 3  # raised whenever the same recipe gives other numbers: a run is resumed only by the version that began it


def load(path: str | Path, device: str | None = None, precision: str = "fp32") -> LanguageModel:
    """A trained model, from a run directory or an exported folder: see `LanguageModel.load`."""
    from dualm.language_model import LanguageModel

    return LanguageModel.load(path, device, precision)
