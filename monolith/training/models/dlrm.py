"""DLRM (Naumov et al. 2019): a bottom MLP over dense numbers, inner products of all pairs of vectors, a top MLP."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from monolith.config import ModelConfig
from monolith.training.models.dense import one_or_all
from monolith.training.models.layers import mlp_layers


class DLRM(nn.Module):
    """The bottom MLP makes one more vector, of the common ``dim``, of the dense numbers.

    The top MLP reads that vector and the inner product of each pair of vectors, and has one output a task.
    """

    def __init__(self, vectors: Mapping[str, int], dense: Mapping[str, int], config: ModelConfig, tasks: int) -> None:
        super().__init__()
        self.vectors, dim = list(vectors), next(iter(vectors.values()))
        self.numbers = list(dense)
        self.bottom = nn.Sequential(*mlp_layers(sum(dense.values()), [*config.bottom, dim], config)[0])
        count = len(self.vectors) + 1
        self.pairs = [i * count + j for i, j in combinations(range(count), 2)]  # places above the diagonal
        self._pairs_there: Tensor | None = None  # the same, on a device that is not the CPU
        layers, width = mlp_layers(dim + len(self.pairs), config.hidden, config)
        self.top = nn.Sequential(*layers, nn.Linear(width, tasks))

    def _places(self, device: torch.device) -> Tensor | list[int]:
        if device.type == "cpu":
            return self.pairs
        if self._pairs_there is None or self._pairs_there.device != device:
            self._pairs_there = torch.tensor(self.pairs, device=device)
        return self._pairs_there

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (batch,) or (batch, tasks), from {vector: (batch, dim)} and {dense feature: (batch, width)}."""
        of_numbers = self.bottom(torch.cat([inputs[name] for name in self.numbers], dim=1))
        stacked = torch.stack([of_numbers, *(inputs[name] for name in self.vectors)], dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(start_dim=1)
        outputs: Tensor = self.top(torch.cat([of_numbers, products[:, self._places(products.device)]], dim=1))
        return one_or_all(outputs)
