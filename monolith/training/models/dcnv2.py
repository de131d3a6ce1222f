"""DCN-V2 (Wang et al. 2021), parallel: a cross network and a multilayer perceptron over the same numbers, joined."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monolith.config import ModelConfig
from monolith.training.models.dense import one_or_all, side_by_side
from monolith.training.models.layers import mlp_layers


class DCNV2(nn.Module):
    """``x_0`` are all vectors, of any widths, and dense numbers side by side. Both networks read it.

    A last linear layer, with an output a task, reads what comes of both.
    """

    def __init__(self, vectors: Mapping[str, int], dense: Mapping[str, int], config: ModelConfig, tasks: int) -> None:
        super().__init__()
        self.vectors, self.numbers = list(vectors), list(dense)
        width = sum(vectors.values()) + sum(dense.values())
        self.cross = nn.ModuleList(_matrix(width, config.cross_rank) for _ in range(config.cross_layers))
        layers, deep = mlp_layers(width, config.hidden, config)
        self.mlp = nn.Sequential(*layers)
        self.last = nn.Linear(width + (deep if config.hidden else 0), tasks)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (batch,) or (batch, tasks), from {vector: (batch, dim)} and {dense feature: (batch, width)}."""
        first = side_by_side(inputs, self.vectors, self.numbers)
        crossed = first
        for layer in self.cross:  # x_{l+1} = x_0 * (W x_l + b) + x_l
            crossed = torch.addcmul(crossed, first, layer(crossed))
        both = torch.cat([crossed, self.mlp(first)], dim=1) if len(self.mlp) else crossed
        return one_or_all(self.last(both))


def _matrix(width: int, rank: int | None) -> nn.Module:
    """``W x + b``, where ``W`` is (width, width), or ``U V`` with ``V`` (rank, width)."""
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
