"""Logistic regression: the sum of one weight per feature value and per dense number, and a bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monolith.training.inputs import stacked
from monolith.training.models.dense import DenseInputs


class LR(nn.Module):
    """``bias + sum_f w_f + <u, x>``: ``w_f`` is the vector (width 1) of feature ``f``, ``x`` the dense numbers."""

    def __init__(self, vectors: Sequence[str], dense: Mapping[str, int]) -> None:
        super().__init__()
        self.vectors = list(vectors)
        self.bias = nn.Parameter(torch.zeros(1))
        self.dense = DenseInputs(dense)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (batch,) from {vector: (batch, 1)} and {dense feature: (batch, width)}."""
        first = stacked(inputs, self.vectors).sum(dim=(1, 2))
        return self.dense.add_to(self.bias + first, inputs)
