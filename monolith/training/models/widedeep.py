"""Wide & Deep (Cheng et al. 2016): weights of ids and dense numbers, and a multilayer perceptron, added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monolith.config import ModelConfig
from monolith.training.models.dense import DenseInputs, one_or_all, side_by_side
from monolith.training.models.layers import mlp_layers


class WideDeep(nn.Module):
    """Vectors of width 1 are the wide part's weights; the deep part reads all others, which may differ in width.

    Dense numbers have weights in the wide part and are read by the deep one. Of several tasks each has an output of the
    MLP, weights of the dense numbers, a bias, and a factor of the ids' weights, 1 at first.
    """

    def __init__(self, vectors: Mapping[str, int], dense: Mapping[str, int], config: ModelConfig, tasks: int) -> None:
        super().__init__()
        self.weights = [name for name, dim in vectors.items() if dim == 1]
        self.vectors = [name for name, dim in vectors.items() if dim > 1]
        self.bias = nn.Parameter(torch.zeros(tasks))
        self.dense = DenseInputs(dense, tasks)
        layers, width = mlp_layers(sum(vectors[n] for n in self.vectors) + self.dense.width, config.hidden, config)
        self.mlp = nn.Sequential(*layers, nn.Linear(width, tasks, bias=False))  # `bias` is the one bias of the sum
        if tasks > 1:
            self.wide = nn.Parameter(torch.ones(tasks))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (batch,) or (batch, tasks), from {vector: (batch, dim)} and {dense feature: (batch, width)}."""
        wide = torch.cat([inputs[name] for name in self.weights], dim=1).sum(dim=1)
        if len(self.bias) > 1:
            wide = wide[:, None] * self.wide
        deep = one_or_all(self.mlp(side_by_side(inputs, self.vectors, self.dense.names)))
        return self.dense.add_to(self.bias + wide + deep, inputs)
