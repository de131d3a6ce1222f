"""Rows to one vector a sample, and a vector's gradient back to its rows; in NumPy, alike in training and in serving.

``sum`` adds the rows of a bag, each times its weight; ``mean`` divides that by the number of ids (not by the sum of
the weights: FBGEMM's rule). A bag without ids is the zero vector. Rows are added in order, one after the other, so the
same rows give the same bits wherever they lie in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith.tables.features import Bag

FloatMatrix = npt.NDArray[np.float32]


def pool(rows: FloatMatrix, bag: Bag, pooling: str) -> FloatMatrix:
    """(total, dim) rows, in the order of ``bag.ids``, to (batch, dim) vectors; may be ``rows`` itself."""
    if bag.weights is not None:
        rows = rows * bag.weights[:, None]
    if bag.one_each:
        return rows
    pooled = _summed(rows, bag.lengths)
    if pooling == "mean":
        pooled /= _divisors(bag)
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


def _summed(rows: FloatMatrix, lengths: npt.NDArray[np.int32]) -> FloatMatrix:
    """Each bag's rows added one after the other: first all bags' first rows, then all second rows, and so on.

    NumPy's ``reduceat`` is no substitute: it adds in an order of its own, which depends on the shape.
    """
    order = np.argsort(-lengths, kind="stable")  # longest first, so that the bags with a k-th row are a prefix
    firsts = (np.cumsum(lengths) - lengths)[order]
    sums = np.zeros((len(lengths), rows.shape[1]), np.float32)
    for k in range(int(lengths.max(initial=0))):
        longer = np.count_nonzero(lengths > k)
        sums[:longer] += rows[firsts[:longer] + k]
    pooled = np.empty_like(sums)
    pooled[order] = sums
    return pooled


def _divisors(bag: Bag) -> FloatMatrix:
    return np.maximum(bag.lengths, 1).astype(np.float32)[:, None]
