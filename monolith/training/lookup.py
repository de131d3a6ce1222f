"""Autograd around the tables: their vectors come out, and in backward their gradients go in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, CollectionStep
from monolith.tables.pooling import spread


class LookupStep:
    """One step's way through autograd."""

    def __init__(self, step: CollectionStep, dims: Sequence[int], weights: WeightGradients | None) -> None:
        self.step = step
        self.dims = list(dims)
        self.weights = weights


class WeightGradients:
    """What the gradients of the ids' weights need: the rows as they are read, before any update."""

    def __init__(self, collection: Collection, bags: Sequence[Bag]) -> None:
        self._bags = bags
        self._rows = [collection.rows(number, bag) for number, bag in enumerate(bags)]
        self._poolings = [collection.tables[out.table].config.pooling for out in collection.outputs]

    def of(self, grads: Sequence[np.ndarray[Any, Any] | None]) -> list[torch.Tensor | None]:
        """The gradient of each id's weight, (total,) an output: the row times its pooled vector's gradient."""
        result: list[torch.Tensor | None] = []
        for rows, bag, pooling, grad in zip(self._rows, self._bags, self._poolings, grads, strict=True):
            per_row = None if grad is None else spread(grad, Bag(bag.ids, bag.lengths), pooling)
            result.append(None if per_row is None else torch.from_numpy((rows * per_row).sum(axis=1)))
        return result


class Vectors(torch.autograd.Function):
    """Each output's vectors (batch, dim) forward; the tables' optimizer step backward."""

    @staticmethod
    def forward(
        ctx: Any, lookup: LookupStep, _anchor: torch.Tensor, *_weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The vectors. The anchor only makes autograd call backward; the weights want gradients of their own."""
        ctx.lookup = lookup
        ctx.set_materialize_grads(False)
        return torch.from_numpy(lookup.step.vectors).split(lookup.dims, dim=1)  # type: ignore[no-untyped-call,no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Apply the gradients to the tables; torch gets only the weights' gradients."""
        return (None, None, *applied(ctx.lookup, [None if grad is None else grad.numpy() for grad in grads]))


class Matrix(torch.autograd.Function):
    """The same as one (batch, sum of dims) matrix."""

    @staticmethod
    def forward(ctx: Any, lookup: LookupStep, _anchor: torch.Tensor, *_weights: torch.Tensor) -> torch.Tensor:
        """All vectors side by side."""
        ctx.lookup = lookup
        return torch.from_numpy(lookup.step.vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Apply the gradients to the tables."""
        return (None, None, *applied_matrix(ctx.lookup, grad.numpy()))


def applied(lookup: LookupStep, grads: Sequence[np.ndarray[Any, Any] | None]) -> list[torch.Tensor | None]:
    """Apply the outputs' gradients to the tables; the gradient of each output's weights, none if nobody asked."""
    weight_grads = lookup.weights.of(grads) if lookup.weights else []
    lookup.step.apply_gradients(grads)
    return weight_grads


def applied_matrix(lookup: LookupStep, grads: np.ndarray[Any, Any]) -> list[torch.Tensor | None]:
    """The same for the outputs' gradients side by side, (batch, sum of dims)."""
    each = np.split(grads, np.cumsum(lookup.dims)[:-1], axis=1) if lookup.weights else []
    weight_grads = lookup.weights.of(each) if lookup.weights else []
    lookup.step.apply_matrix(grads)
    return weight_grads
