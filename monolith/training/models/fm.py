"""Factorization machine (Rendle 2010), second order, over one pooled vector a feature; dense features are linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monolith.training.inputs import stacked
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
        first, second, _ = Interaction.of(stacked(inputs, self.vectors))
        return self.dense.add_to(self.bias + first + second, inputs)


class Interaction(torch.autograd.Function):
    """What FM makes of vectors (batch, features, 1 + D), with one backward in place of a dozen."""

    @classmethod
    def of(cls, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first order ``sum_f w_f`` and the second, all pairs' inner products, (batch,) each; the factors ``v``."""
        return (cls.apply(vectors) if vectors.requires_grad else _orders(vectors))[:3]  # type: ignore[no-untyped-call]

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First order, second order, factors (batch, features, D)."""
        first, second, factors, total = _orders(vectors)
        ctx.save_for_backward(factors, total)
        return first, second, factors

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor, factors: Tensor) -> Tensor:
        """The gradient of ``v_f`` is the second order's times the sum of all other ``v``, and what came for ``v_f``."""
        own, total = ctx.saved_tensors
        others = (total.unsqueeze(1) - own).mul_(second[:, None, None])
        return torch.cat([first[:, None, None].expand(-1, own.shape[1], 1), others.add_(factors)], dim=2)


def _orders(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The second order is (square of the sum - sum of squares) / 2. Last comes the sum of factors, (batch, D)."""
    total = vectors.sum(dim=1)
    pairs = (total * total - (vectors * vectors).sum(dim=1))[:, 1:]
    return total[:, 0], 0.5 * pairs.sum(dim=1), vectors[:, :, 1:].contiguous(), total[:, 1:]
