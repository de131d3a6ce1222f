"""What a network reads of one batch: its vectors side by side in one matrix, and its dense features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class Inputs(Mapping[str, Tensor]):
    """Tensors (batch, width) by name; vectors are views of ``matrix`` (batch, sum of widths), made when asked for.

    ``widths`` are the vectors' in the order in which they lie side by side.
    """

    def __init__(self, matrix: Tensor, widths: Mapping[str, int], dense: Mapping[str, Tensor]) -> None:
        self.matrix, self.widths, self.dense = matrix, widths, dense
        self._vectors: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.dense:
            return self.dense[name]
        if not self._vectors:  # one split: its backward joins the gradients once, a slice's fills a matrix each
            parts = self.matrix.split(list(self.widths.values()), dim=1)  # type: ignore[no-untyped-call]
            self._vectors = dict(zip(self.widths, parts, strict=True))
        return self._vectors[name]

    def on_cpu(self) -> Inputs:
        """The same in main memory, without gradients."""
        return Inputs(self.matrix.detach().cpu(), self.widths, {name: own.cpu() for name, own in self.dense.items()})

    def __iter__(self) -> Iterator[str]:
        yield from self.widths
        yield from self.dense

    def __len__(self) -> int:
        return len(self.widths) + len(self.dense)


def stacked(inputs: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """(batch, names, width) of vectors of one width: a view where they are all of an `Inputs`, else a copy."""
    if isinstance(inputs, Inputs) and list(inputs.widths) == names:
        return inputs.matrix.view(-1, len(names), inputs.matrix.shape[1] // len(names))
    return torch.stack([inputs[name] for name in names], dim=1)
