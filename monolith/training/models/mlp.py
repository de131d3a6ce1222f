"""A multilayer perceptron over all vectors and dense numbers side by side."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from monolith.config import ModelConfig
from monolith.training.models.dense import one_or_all, side_by_side
from monolith.training.models.layers import mlp_layers


class MLP(nn.Module):
    """Vectors may differ in width. The last layer has an output a task."""

    def __init__(self, vectors: Mapping[str, int], dense: Mapping[str, int], config: ModelConfig, tasks: int) -> None:
        super().__init__()
        self.vectors, self.numbers = list(vectors), list(dense)
        layers, width = mlp_layers(sum(vectors.values()) + sum(dense.values()), config.hidden, config)
        self.mlp = nn.Sequential(*layers, nn.Linear(width, tasks))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (batch,) or (batch, tasks), from {vector: (batch, dim)} and {dense feature: (batch, width)}."""
        outputs: Tensor = self.mlp(side_by_side(inputs, self.vectors, self.numbers))
        return one_or_all(outputs)
