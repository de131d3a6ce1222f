"""Factorization machine (Rendle 2010), second order, over one pooled vector a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FM(nn.Module):
    """``bias + sum_f w_f + sum_{f<g} <v_f, v_g>``: column 0 of a vector is ``w``, the other columns are ``v``."""

    def __init__(self, features: Sequence[str]) -> None:
        super().__init__()
        self.features = list(features)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Logits (batch,) from {feature: (batch, 1 + D)}."""
        stacked = torch.stack([vectors[name] for name in self.features], dim=1)
        return self.bias + first_order(stacked) + second_order(stacked)


def first_order(stacked: Tensor) -> Tensor:
    """(batch, features, 1 + D) -> (batch,): the sum of the first-order weights."""
    return stacked[:, :, 0].sum(dim=1)


def second_order(stacked: Tensor) -> Tensor:
    """(batch, features, 1 + D) -> (batch,): all pairs' inner products, as (square of the sum - sum of squares) / 2."""
    factors = stacked[:, :, 1:]
    total = factors.sum(dim=1)
    return 0.5 * (total * total - (factors * factors).sum(dim=1)).sum(dim=1)
