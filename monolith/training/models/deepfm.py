"""DeepFM (Guo et al. 2017): a factorization machine and a multilayer perceptron over the same vectors, added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monolith.training.models.dense import DenseInputs
from monolith.training.models.fm import first_order, second_order


class DeepFM(nn.Module):
    """FM's logit plus that of an MLP on the factor vectors and dense numbers (column 0 is the first-order weight)."""

    def __init__(self, vectors: Sequence[str], dense: Mapping[str, int], factors: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.vectors = list(vectors)
        self.bias = nn.Parameter(torch.zeros(1))
        self.dense = DenseInputs(dense)
        layers: list[nn.Module] = []
        width = len(self.vectors) * factors + self.dense.width
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1, bias=False))  # `bias` is the one bias of the sum

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (batch,) from {vector: (batch, 1 + D)} and {dense feature: (batch, width)}."""
        stacked = torch.stack([inputs[name] for name in self.vectors], dim=1)
        deep_inputs = stacked[:, :, 1:].flatten(start_dim=1)
        if self.dense.names:
            deep_inputs = torch.cat([deep_inputs, self.dense.matrix(inputs)], dim=1)
        deep = self.mlp(deep_inputs).squeeze(1)
        return self.dense.add_to(self.bias + first_order(stacked) + second_order(stacked) + deep, inputs)
