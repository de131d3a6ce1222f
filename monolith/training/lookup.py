"""One training step's way through the tables: observe, look up, pool, and, in backward, one update per table.

Everything here is NumPy until the pooled vectors enter autograd: a step costs a few native calls a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.function import once_differentiable

from monolith.errors import InputError, NonFiniteError
from monolith.tables import Table
from monolith.tables.features import Bag
from monolith.tables.hashing import salted as salt
from monolith.tables.pooling import FloatMatrix, pool, spread
from monolith.tables.table import TrainingStep

Times = int | npt.NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Output:
    """One vector of the result: which feature's bags, pooled from which table."""

    name: str  # the feature, or feature@table where several tables read the feature (torchrec's rule)
    feature: str
    table: str


class TableStep:
    """One table's part of a step: the ids of all its features, one after the other, and their rows."""

    def __init__(self, table: Table, outputs: Sequence[Output], bags: Mapping[str, Bag], *, salted: bool) -> None:
        self.table = table
        self.bags = [bags[output.feature] for output in outputs]
        self.names = [output.name for output in outputs]
        parts = [salt(out.feature, bag.ids) if salted else bag.ids for out, bag in zip(outputs, self.bags, strict=True)]
        self.ids = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.rows: FloatMatrix = np.empty((0, 0), np.float32)
        self._step: TrainingStep | None = None  # of a forward in training mode

    def begin(self, times: Times) -> None:
        """Show the table its ids, each with its sample's time, and read their rows."""
        if isinstance(times, np.ndarray):
            spread_times = [times if bag.one_each else np.repeat(times, bag.lengths) for bag in self.bags]
            times = spread_times[0] if len(spread_times) == 1 else np.concatenate(spread_times)
        self._step = self.table.step(self.ids, event_time_ms=times)
        self.rows = self._step.values

    def read(self) -> None:
        """Read the rows and leave the table as it is."""
        self.rows = self.table.lookup(self.ids)

    def vectors(self) -> list[torch.Tensor]:
        """The rows pooled: one (batch, dim) tensor a feature."""
        pooling = self.table.config.pooling
        pooled = [pool(rows, bag, pooling) for rows, bag in zip(self._split(self.rows), self.bags, strict=True)]
        return [torch.from_numpy(vectors) for vectors in pooled]

    def apply(self, ids: npt.NDArray[np.int64], gradients: FloatMatrix) -> None:
        """One update with what ``gradients`` gave."""
        if len(ids) == len(self.ids) and self._step is not None:
            self._step.apply_gradients(gradients)
        elif len(ids):  # the loss leaves a feature out
            self.table.apply_gradients(ids, gradients)

    def gradients(self, grads: Sequence[torch.Tensor | None]) -> tuple[npt.NDArray[np.int64], FloatMatrix]:
        """Ids (n,) and gradients (n, dim) of every occurrence; a feature that the loss does not use has none."""
        pooling = self.table.config.pooling
        ids, rows = [], []
        for part, bag, grad in zip(self._split(self.ids), self.bags, grads, strict=True):
            if grad is not None:
                ids.append(part)
                rows.append(spread(grad.numpy(), bag, pooling))
        if not ids:
            return np.zeros(0, np.int64), np.zeros((0, self.table.config.dim), np.float32)
        if len(ids) == 1:
            return ids[0], np.ascontiguousarray(rows[0])
        return np.concatenate(ids), np.concatenate(rows)

    def weight_gradients(self, grads: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The gradient of each id's weight, (total,): the row times its pooled vector's gradient."""
        result: list[torch.Tensor | None] = []
        for rows, bag, grad in zip(self._split(self.rows), self.bags, grads, strict=True):
            unweighted = Bag(bag.ids, bag.lengths)
            per_row = None if grad is None else spread(grad.numpy(), unweighted, self.table.config.pooling)
            result.append(None if per_row is None else torch.from_numpy((rows * per_row).sum(axis=1)))
        return result

    def _split(self, array: Any) -> list[Any]:
        """The features' parts of an array over all ids."""
        if len(self.bags) == 1:
            return [array]
        return np.split(array, np.cumsum([len(bag.ids) for bag in self.bags[:-1]]))


class LookupStep:
    """All tables' parts of one step."""

    def __init__(self, tables: Sequence[TableStep]) -> None:
        self._tables: Sequence[TableStep] | None = tables  # None once applied: rows and tables are let go

    def vectors(self) -> tuple[torch.Tensor, ...]:
        """Pooled vectors in output order."""
        return tuple(vector for step in self._unapplied() for vector in step.vectors())

    def apply(self, grads: Sequence[torch.Tensor | None]) -> None:
        """Update every table once. Raises before anything is changed if a gradient may not be applied."""
        updates = [(step, *step.gradients(part)) for step, part in self._parts(grads)]
        if len(updates) > 1:  # a single table checks for itself
            with np.errstate(over="ignore", invalid="ignore"):
                for step, _, gradients in updates:
                    if step.table.config.on_nonfinite == "raise":
                        _check_finite(gradients, step.table.config.name, step.names)
        self._tables = None
        for step, ids, gradients in updates:
            step.apply(ids, gradients)

    def weight_gradients(self, grads: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Gradients of the ids' weights, one (total,) tensor an output."""
        return [gradient for step, part in self._parts(grads) for gradient in step.weight_gradients(part)]

    def _parts(self, grads: Sequence[torch.Tensor | None]) -> list[tuple[TableStep, Sequence[torch.Tensor | None]]]:
        parts, start = [], 0
        for step in self._unapplied():
            parts.append((step, grads[start : start + len(step.bags)]))
            start += len(step.bags)
        return parts

    def _unapplied(self) -> Sequence[TableStep]:
        if self._tables is None:
            raise InputError(
                "backward ran a second time through the same lookup, and its update is already in the tables: "
                "run forward again for every backward"
            )
        return self._tables


class FusedLookup(torch.autograd.Function):
    """Pooled vectors forward; the tables' optimizer step backward."""

    @staticmethod
    def forward(ctx: Any, step: LookupStep, _anchor: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Look up and pool. The anchor only makes autograd call backward; ``weights`` want gradients of their own."""
        ctx.step = step
        ctx.weighted = bool(weights)
        ctx.set_materialize_grads(False)
        return step.vectors()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Apply the gradients to the tables; torch gets only the weights' gradients."""
        weight_grads = ctx.step.weight_gradients(grads) if ctx.weighted else []
        ctx.step.apply(grads)
        return (None, None, *weight_grads)


def _check_finite(gradients: FloatMatrix, table: str, features: Sequence[str]) -> None:
    flat = gradients.ravel()
    squares = np.dot(flat, flat)  # one fast pass; only where it is not finite is a closer look needed
    if math.isfinite(squares) or np.isfinite(flat).all():
        return
    bad = int(np.count_nonzero(~np.isfinite(gradients).all(axis=1)))
    raise NonFiniteError(
        f"{bad} of {len(gradients)} gradients of table {table!r} (features {list(features)}) hold NaN or infinity; "
        f"no table was changed: lower the learning rate, or set on_nonfinite to skip_row or clip"
    )
