"""The shifted transformer, its attention masks, and the kernels that run them.

It knows nothing of objectives: it gets tokens, an attention mask and positions to score.
"""

from dualm.model.attention import AttentionMask
from dualm.model.transformer import Losses, Transformer

__all__ = ["AttentionMask", "Losses", "Transformer"]
