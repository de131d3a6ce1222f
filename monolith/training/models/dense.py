"""Dense features in a model: one matrix, and the weights of its first-order part."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class DenseInputs(nn.Module):
    """The dense features of a job side by side. Without any, it has no weights and changes nothing."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.names = list(widths)
        self.width = sum(widths.values())
        if self.names:
            self.linear = nn.Linear(self.width, 1, bias=False)

    def matrix(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(batch, width) of all features, in order; there must be some."""
        return torch.cat([inputs[name] for name in self.names], dim=1)

    def add_to(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """``logits`` (batch,) plus the first-order part."""
        if not self.names:
            return logits
        added: Tensor = logits + self.linear(self.matrix(inputs)).squeeze(1)
        return added
