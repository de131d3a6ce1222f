"""Rows to one vector a sample, and a vector's gradient back to its rows, alike in training and in serving.

``sum`` adds the rows of a bag, each times its weight; ``mean`` divides that by the number of ids (not by the sum of
the weights: FBGEMM's rule). A bag without ids is the zero vector. Rows are added in order, one after the other, so the
same rows give the same bits wherever they lie in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.tables import _core
from monolith.tables.batch import Bag

FloatMatrix = npt.NDArray[np.float32]

_UNWEIGHTED = np.zeros(0, np.float32)


def pool(rows: FloatMatrix, bag: Bag, pooling: str) -> FloatMatrix:
    """(total, dim) rows, in the order of ``bag.ids``, to (batch, dim) vectors; may be ``rows`` itself.

    Other Python threads run meanwhile. Raises InputError where there are not as many rows as ids.
    """
    if len(rows) != len(bag.ids):
        raise InputError(f"{len(rows)} rows for a bag of {len(bag.ids)} ids: give one for each id")
    if bag.one_each:
        return rows if bag.weights is None else rows * bag.weights[:, None]
    pooled = np.empty((len(bag.lengths), rows.shape[1]), np.float32)
    weights = _UNWEIGHTED if bag.weights is None else np.ascontiguousarray(bag.weights)
    _core.pool(np.ascontiguousarray(rows), np.ascontiguousarray(bag.lengths), weights, pooling == "mean", pooled)
    return pooled


def spread(grads: FloatMatrix, bag: Bag, pooling: str) -> FloatMatrix:
    """The gradient of each row, (total, dim), from the gradients (batch, dim) of the pooled vectors."""
    if not bag.one_each:
        if pooling == "mean":
            grads = grads / _divisors(bag)
        grads = np.repeat(grads, bag.lengths, axis=0)
    if bag.weights is not None:
        grads = grads * bag.weights[:, None]
    return grads


def _divisors(bag: Bag) -> FloatMatrix:
    return np.maximum(bag.lengths, 1).astype(np.float32)[:, None]
