"""Dense features in a model: one matrix, and the weights of its first-order part; and layers over numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


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


def one_or_all(outputs: Tensor) -> Tensor:
    """(batch, tasks), or (batch,) where there is one task."""
    return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs


def mlp_layers(width: int, sizes: Sequence[int]) -> tuple[list[nn.Module], int]:
    """Linear layers of ``sizes``, each with a ReLU, over ``width`` numbers; and the width that comes out."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return layers, width
