"""What models read: dense features as one matrix with first-order weights, or all inputs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monolith.training.inputs import Inputs


class DenseInputs(nn.Module):
    """The dense features of a job side by side. Without any, it has no weights and changes nothing."""

    def __init__(self, widths: Mapping[str, int], tasks: int = 1) -> None:
        super().__init__()
        self.names = list(widths)
        self.width = sum(widths.values())
        if self.names:
            self.linear = nn.Linear(self.width, tasks, bias=False)

    def matrix(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(batch, width) of all features, in order; there must be some."""
        return torch.cat([inputs[name] for name in self.names], dim=1)

    def add_to(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """``logits``, (batch,) or (batch, tasks), plus the first-order part."""
        if not self.names:
            return logits
        added: Tensor = logits + one_or_all(self.linear(self.matrix(inputs)))
        return added


def side_by_side(inputs: Mapping[str, Tensor], vectors: Sequence[str], dense: Sequence[str]) -> Tensor:
    """(batch, sum of widths): the vectors, then the dense features; no copy of what an `Inputs` has so already."""
    if isinstance(inputs, Inputs) and list(inputs.widths) == list(vectors):
        parts = [inputs.matrix]
    else:
        parts = [inputs[name] for name in vectors]
    parts += [inputs[name] for name in dense]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def one_or_all(outputs: Tensor) -> Tensor:
    """(batch, tasks), or (batch,) where there is one task."""
    return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs
