"""Factorization machine (Rendle 2010), second order, over one pooled vector a feature; dense features are linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monolith.training.models.dense import DenseInputs


class FM(nn.Module):
    """``bias + sum_f w_f + sum_{f<g} <v_f, v_g>``: column 0 of a vector is ``w``, the other columns are ``v``."""

    def __init__(self, vectors: Sequence[str], dense: Mapping[str, int]) -> None:
        super().__init__()
        self.vectors = list(vectors)
        self.bias = nn.Parameter(torch.zeros(1))
        self.dense = DenseInputs(dense)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (batch,) from {vector: (batch, 1 + D)} and {dense feature: (batch, width)}."""
        stacked = torch.stack([inputs[name] for name in self.vectors], dim=1)
        return self.dense.add_to(self.bias + first_order(stacked) + second_order(stacked), inputs)


def first_order(stacked: Tensor) -> Tensor:
    """(batch, features, 1 + D) -> (batch,): the sum of the first-order weights."""
    return stacked[:, :, 0].sum(dim=1)


def second_order(stacked: Tensor) -> Tensor:
    """(batch, features, 1 + D) -> (batch,): all pairs' inner products, as (square of the sum - sum of squares) / 2."""
    factors = stacked[:, :, 1:]
    total = factors.sum(dim=1)
    return 0.5 * (total * total - (factors * factors).sum(dim=1)).sum(dim=1)
