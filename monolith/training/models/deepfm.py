"""DeepFM (Guo et al. 2017): a factorization machine and a multilayer perceptron over the same vectors, added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monolith.training.models.fm import first_order, second_order


class DeepFM(nn.Module):
    """FM's logit plus that of an MLP on the concatenated factor vectors (column 0 is the first-order weight)."""

    def __init__(self, features: Sequence[str], factors: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.features = list(features)
        self.bias = nn.Parameter(torch.zeros(1))
        layers: list[nn.Module] = []
        width = len(self.features) * factors
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1, bias=False))  # `bias` is the one bias of the sum

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Logits (batch,) from {feature: (batch, 1 + D)}."""
        stacked = torch.stack([vectors[name] for name in self.features], dim=1)
        deep = self.mlp(stacked[:, :, 1:].flatten(start_dim=1)).squeeze(1)
        logits: Tensor = self.bias + first_order(stacked) + second_order(stacked) + deep
        return logits
