"""What an objective makes of a window, and the batches the model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dualm.data.windows import Window, document_ids
from dualm.model.attention import AttentionMask, Kind

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Example:
    """One training sequence of a window, or the first of several.

    `inputs`, `targets` and `weights` are `[length]`; the output at i is scored against `targets[i]` with
    `weights[i]`, and weight 0 means unsupervised. The weights of a sequence include its 1/N, so that the
    weighted sum of cross-entropies is the loss of the window in nats per token. With another sequence of the same window
    `beside` it, the loss of the window is the sum of both.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    attention: Kind  # kind of attention mask: causal | bidirectional | prefix
    prefix: int = 0  # positions that see each other both ways (kind prefix)
    documents: np.ndarray | None = None  # `[length]`, of each input; None: every `<s>` begins one
    rate: float = 0.0  # share of the maskable inputs that are masked
    beside: Example | None = None

    def scaled(self, factor: float) -> Example:
        """The same with all weights times `factor`."""
        beside = self.beside and self.beside.scaled(factor)
        return replace(self, weights=self.weights * factor, beside=beside)

    def sequences(self) -> Iterator[Example]:
        """Itself and what stands beside it."""
        yield self
        if self.beside:
            yield from self.beside.sequences()


class Objective(Protocol):
    """A window of `length + 1` tokens, its quantile u in [0, 1), its generator of random numbers."""

    def __call__(self, window: Window, u: float, rng: np.random.Generator) -> Example: ...


@dataclass(frozen=True)
class Batch:
    """Examples of one objective, as tensors: exactly the arguments of `Transformer.forward`.

    `inputs` is `[batch, length]`, a row a sequence; `outputs` `[n]` are the supervised ones in the flattened batch, with
    their `targets` and `weights` `[n]`. `rates` `[batch]` are the rows' mask rates, on the host.
    """

    inputs: torch.Tensor
    attention: AttentionMask
    outputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rates: np.ndarray

    @property
    def arguments(self) -> tuple[torch.Tensor, AttentionMask, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.inputs, self.attention, self.outputs, self.targets, self.weights

    def to(self, device: torch.device) -> Batch:
        """Move the tensors; the mask stays on the host, where attention backends read lengths without a sync."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return replace(
            self,
            inputs=change(self.inputs),
            outputs=change(self.outputs),
            targets=change(self.targets),
            weights=change(self.weights),
        )


def collate(examples: Sequence[Example], keep_in_document: bool = True) -> Batch:
    """Stack the sequences of examples of one objective; document ids are left out where no row has a border.

    Where examples hold several sequences, their weights are multiplied by how many, so that the mean over all rows of the
    batch is the mean over its examples.
    """
    import torch

    count, examples = len(examples), [sequence for example in examples for sequence in example.sequences()]
    inputs = np.stack([example.inputs for example in examples])
    targets, weights = (np.stack([getattr(example, name) for example in examples]) for name in ("targets", "weights"))
    given = [example.documents for example in examples]
    documents = np.stack([document_ids(row) if ids is None else ids for row, ids in zip(inputs, given, strict=True)])
    one_document = bool((documents == documents[:, :1]).all())
    outputs = np.flatnonzero(weights)
    kind = examples[0].attention
    attention = AttentionMask(
        kind,
        document_ids=torch.from_numpy(documents) if keep_in_document and not one_document else None,
        prefix=torch.tensor([example.prefix for example in examples]) if kind == "prefix" else None,
    )
    return Batch(
        inputs=torch.from_numpy(inputs),
        attention=attention,
        outputs=torch.from_numpy(outputs),
        targets=torch.from_numpy(targets.reshape(-1)[outputs]),
        weights=torch.from_numpy((weights.reshape(-1)[outputs] * (len(examples) / count)).astype(np.float32)),
        rates=np.array([example.rate for example in examples]),
    )
