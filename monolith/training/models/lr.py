"""Logistic regression: the sum of one weight per feature value, and a bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LR(nn.Module):
    """``bias + sum_f w_f``, where ``w_f`` is column 0 of feature ``f``'s vector."""

    def __init__(self, features: Sequence[str]) -> None:
        super().__init__()
        self.features = list(features)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Logits (batch,) from {feature: (batch, 1)}."""
        return self.bias + torch.cat([vectors[name] for name in self.features], dim=1).sum(dim=1)
