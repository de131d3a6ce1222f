"""DeepFM (Guo et al. 2017): a factorization machine and a multilayer perceptron over the same vectors, added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monolith.config import ModelConfig
from monolith.training.inputs import stacked
from monolith.training.models.dense import DenseInputs, one_or_all
from monolith.training.models.fm import Interaction
from monolith.training.models.layers import mlp_layers


class DeepFM(nn.Module):
    """FM's logit plus that of an MLP on the factor vectors and dense numbers (column 0 is the first-order weight).

    A vector of width 1 is a first-order weight alone; all others have one width. Of several tasks each has an output of
    the MLP, weights of the dense numbers, a bias, and a weight for either part of the FM, 1 at first.
    """

    def __init__(self, vectors: Mapping[str, int], dense: Mapping[str, int], config: ModelConfig, tasks: int) -> None:
        super().__init__()
        self.vectors = [name for name, dim in vectors.items() if dim > 1]
        self.weights = [name for name, dim in vectors.items() if dim == 1]
        factors = max(vectors.values()) - 1
        self.bias = nn.Parameter(torch.zeros(tasks))
        self.dense = DenseInputs(dense, tasks)
        layers, width = mlp_layers(len(self.vectors) * factors + self.dense.width, config.hidden, config)
        self.mlp = nn.Sequential(*layers, nn.Linear(width, tasks, bias=False))  # `bias` is the one bias of the sum
        if tasks > 1:
            self.parts = nn.Parameter(torch.ones(2, tasks))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (batch,) or (batch, tasks), from {vector: (batch, dim)} and {dense feature: (batch, width)}."""
        first, second, factors = Interaction.of(stacked(inputs, self.vectors))
        deep_inputs = factors.flatten(start_dim=1)
        if self.dense.names:
            deep_inputs = torch.cat([deep_inputs, self.dense.matrix(inputs)], dim=1)
        deep = one_or_all(self.mlp(deep_inputs))
        if self.weights:
            first = first + torch.cat([inputs[name] for name in self.weights], dim=1).sum(dim=1)
        if len(self.bias) > 1:
            first, second = first[:, None] * self.parts[0], second[:, None] * self.parts[1]
        return self.dense.add_to(self.bias + first + second + deep, inputs)
