"""Rows to vectors and gradients back, against the formulas written out."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from monolith.errors import InputError
from monolith.tables.batch import Bag
from monolith.tables.pooling import pool, spread


def bag(lengths: list[int], weights: list[float] | None = None) -> Bag:
    ids = np.arange(sum(lengths), dtype=np.int64)
    return Bag(ids, np.array(lengths, np.int32), None if weights is None else np.array(weights, np.float32))


def written_out(rows: np.ndarray, batch: Bag, pooling: str) -> np.ndarray:
    """One bag, one row at a time, in float32."""
    out, at = [], 0
    for length in batch.lengths:
        total = np.zeros(rows.shape[1], np.float32)
        for row in range(at, at + length):
            weight = np.float32(1) if batch.weights is None else batch.weights[row]
            total = total + rows[row] * weight
        out.append(total / np.float32(max(1, length)) if pooling == "mean" else total)
        at += length
    return np.array(out, np.float32).reshape(len(batch.lengths), rows.shape[1])


BAGS = [
    bag([1, 1, 1]),
    bag([0, 2, 0, 0, 3, 0]),
    bag([3]),
    bag([0, 0]),
    bag([]),
    bag([1, 2, 0, 7], [0.5, -1.0, 3.0, 1, 2, 3, 4, 5, 6, 7]),
    bag([1, 1], [2.0, -0.5]),
    bag([2, 0, 1], [2.0, -0.5, 0.0]),
    bag([0, 500, 1]),
]


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("batch", BAGS, ids=lambda b: f"{b.lengths.tolist()}{'' if b.weights is None else 'w'}")
@pytest.mark.parametrize("dim", [1, 5, 17])
def test_pooled_vectors_have_the_bits_of_adding_row_after_row(batch, pooling, dim):
    rows = np.random.default_rng(0).normal(size=(len(batch.ids), dim)).astype(np.float32)
    out = pool(rows, batch, pooling)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, written_out(rows, batch, pooling))


def test_pooling_a_long_bag_takes_as_many_python_calls_as_a_short_one():
    def calls(length: int) -> int:
        rows, seen = np.ones((length + 1, 4), np.float32), []
        batch = bag([length, 1])
        sys.setprofile(lambda *what: seen.append(what))
        try:
            pool(rows, batch, "mean")
        finally:
            sys.setprofile(None)
        return len(seen)

    assert calls(20_000) == calls(3)


def test_rows_that_are_not_as_many_as_the_ids_are_refused():
    for rows in (2, 4):
        with pytest.raises(InputError, match=f"{rows} rows for a bag of 3 ids"):
            pool(np.ones((rows, 4), np.float32), bag([1, 2]), "sum")


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("batch", BAGS, ids=lambda b: f"{b.lengths.tolist()}{'' if b.weights is None else 'w'}")
def test_spread_is_the_transpose_of_pool(batch, pooling):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(batch.ids), 3)).astype(np.float32)
    grads = rng.normal(size=(len(batch.lengths), 3)).astype(np.float32)
    back = spread(grads, batch, pooling)
    assert back.shape == rows.shape
    assert back.dtype == np.float32
    np.testing.assert_allclose((back * rows).sum(), (grads * pool(rows, batch, pooling)).sum(), rtol=1e-4, atol=1e-5)


def test_one_each_sees_an_empty_bag_made_up_for_by_a_longer_one():
    assert bag([1, 1]).one_each
    assert not bag([0, 2]).one_each
    assert not bag([2]).one_each


@pytest.mark.parametrize(("ids", "lengths", "weights"), [(2, [1], None), (1, [2, -1], None), (1, [1], [1.0, 2.0])])
def test_bag_that_does_not_fit_together_is_refused(ids, lengths, weights):
    with pytest.raises(InputError, match=f"a bag has {ids} ids"):
        Bag(np.arange(ids), np.array(lengths, np.int32), None if weights is None else np.array(weights, np.float32))
