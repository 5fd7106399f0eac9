"""Keys and values of tokens already read, so that reading on costs no more than the new tokens.

A token is read into a column of its row. Rows that stand at one column are written as a slice, others one by one. Which columns
a token may see is up to the caller; a row's padding may stand on either side of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dualm.config import ModelConfig
from dualm.model import size

Columns = Tensor | slice  # [B, L], or the same L columns in every row


class KVCache:
    """Room for `capacity` tokens in each of `batch` rows, allocated once.

    `shift_B` is a token's position less its column: the tokens that its row has forgotten, or minus the padding on its left.
    """

    def __init__(self, config: ModelConfig, batch: int, capacity: int, device: torch.device) -> None:
        half = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if half else torch.float32
        shape = (config.layers, 2, batch, size.kv_heads(config), capacity, size.head_dim(config))
        self._store = torch.zeros(shape, device=device, dtype=dtype)
        self.shift_B = torch.zeros(batch, dtype=torch.int64, device=device)

    def positions(self, columns: Columns) -> Tensor:
        """Of tokens in these columns: `[B, L]`."""
        if isinstance(columns, slice):
            columns = torch.arange(columns.start, columns.stop, device=self.shift_B.device)
        return columns + self.shift_B[:, None]

    def bias(self, visible: Tensor | None) -> Tensor | None:
        """What a bool mask adds to the scores, made once for all layers; None: each token sees the columns up to its own."""
        if visible is None:
            return None
        return torch.zeros_like(visible, dtype=self._store.dtype).masked_fill(~visible, -torch.inf)

    def attend(self, layer: int, columns: Columns) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
        """Attention of new tokens to the cache: writes their keys and values to `columns`, then reads what `bias` leaves visible."""
        keys, values = self._store[layer]

        def attend(q_BNLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, bias: Tensor | None) -> Tensor:
            if isinstance(columns, slice):
                keys[:, :, columns], values[:, :, columns] = k_BKLD, v_BKLD
            else:
                row_B1 = torch.arange(len(columns), device=columns.device)[:, None]
                keys[row_B1, :, columns] = k_BKLD.transpose(1, 2)
                values[row_B1, :, columns] = v_BKLD.transpose(1, 2)
            if bias is None:
                assert isinstance(columns, slice), "rows at different columns need a mask"
                seen = columns.stop
            else:
                seen = bias.shape[-1]
            return F.scaled_dot_product_attention(
                q_BNLD,
                keys[:, :, :seen],
                values[:, :, :seen],
                attn_mask=bias,
                is_causal=bias is None and q_BNLD.shape[2] > 1,
                enable_gqa=q_BNLD.shape[1] != k_BKLD.shape[1],
            )

        return attend

    def drop(self, counts: list[int]) -> None:
        """Forget the first `counts[b]` tokens of each row; the others move to the left.

        Their keys keep the angles of their old positions: only distances matter to rotary embeddings.
        """
        for row, count in enumerate(counts):
            if count:
                self._store[:, :, row] = self._store[:, :, row].roll(-count, dims=-2)
        self.shift_B += torch.tensor(counts, device=self.shift_B.device)
