"""Batches: slices, joins, selections, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.errors import CorruptError, InputError, VersionError
from monolith.tables.batch import NO_GROUP, Bag, Batch, concatenated
from monolith.tables.batch_bytes import from_bytes, to_bytes

ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 9), st.floats(-1, 1, width=32)),
    min_size=1,
    max_size=12,
)


def batch_of(rows: list[tuple[list[int], int, float]], *, weighted: bool = False) -> Batch:
    n = len(rows)
    ids = np.array([i for tags, *_ in rows for i in tags], np.int64)
    tags = Bag(ids, np.array([len(tags) for tags, *_ in rows], np.int32), ids.astype(np.float32) if weighted else None)
    users = np.array([user for _, user, _ in rows], np.int64)
    return Batch(
        bags={"user": Bag(users, np.ones(n, np.int32)), "tags": tags},
        dense={"price": np.array([[price] for *_, price in rows], np.float32)},
        labels=np.arange(n, dtype=np.float32)[:, None],
        rates=np.ones(n, np.float32),
        event_time_ms=np.arange(n, dtype=np.int64),
        ingestion_time_ms=np.arange(n, dtype=np.int64) + 5,
        groups=np.where(users > 7, NO_GROUP, users),
        late=users == 3,
    )


def plain(batch: Batch) -> list[tuple]:
    """Each sample with all that it has."""
    rows = []
    for i in range(len(batch)):
        bags = []
        for bag in batch.bags.values():
            first, last = bag.offsets()[i : i + 2]
            weights = np.ones(last - first) if bag.weights is None else bag.weights[first:last]
            bags.append(list(zip(bag.ids[first:last].tolist(), weights.tolist(), strict=True)))
        fixed = [
            getattr(batch, n)[i].tolist()
            for n in ("labels", "rates", "event_time_ms", "ingestion_time_ms", "groups", "late")
        ]
        rows.append((bags, [column[i].tolist() for column in batch.dense.values()], fixed))
    return rows


@settings(max_examples=100, deadline=None)
@given(ROWS, st.booleans(), st.data())
def test_slices_orders_and_joins_are_those_of_lists(rows, weighted, data):
    batch = batch_of(rows, weighted=weighted)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows)))))
    assert plain(batch[start:stop]) == plain(batch)[start:stop]
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
    assert plain(batch.take(np.array(order, np.int64))) == [plain(batch)[i] for i in order]
    assert plain(concatenated([batch[:start], batch[start:stop], batch[stop:]])) == plain(batch)
    size = data.draw(st.integers(1, 5))
    assert [row for piece in batch.pieces(size) for row in plain(piece)] == plain(batch)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.booleans(), st.data())
def test_slice_is_the_batch_that_its_own_columns_make(rows, weighted, data):
    """A slice is not checked again: it must be what the checks would have let through, flags included."""
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows)))))
    piece = batch_of(rows, weighted=weighted)[start:stop]
    for bag in piece.bags.values():
        made = Bag(bag.ids, bag.lengths, bag.weights)
        assert bag.one_each == made.one_each
        assert np.array_equal(bag.offsets(), made.offsets())
        assert (bag.weights is None) == (made.weights is None)
    assert plain(replace(piece)) == plain(piece)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.booleans(), st.data())
def test_a_mask_takes_ids_and_leaves_samples(rows, weighted, data):
    batch = batch_of(rows, weighted=weighted)
    total = len(batch.bags["tags"].ids)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), bool)
    mine, others = batch.where({"tags": mask}), batch.where({"tags": ~mask})
    assert mine.bags["user"] is batch.bags["user"]
    assert len(mine) == len(others) == len(batch)
    assert np.array_equal(mine.bags["tags"].ids, batch.bags["tags"].ids[mask])
    assert np.array_equal(mine.bags["tags"].lengths + others.bags["tags"].lengths, batch.bags["tags"].lengths)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.booleans(), st.booleans())
def test_bytes_give_the_batch_back_without_a_copy(rows, weighted, label_weights):
    batch = batch_of(rows, weighted=weighted)
    if label_weights:
        batch = replace(batch, label_weights=batch.labels + 1)
    data = to_bytes(batch)
    again = from_bytes(data)
    assert to_bytes(again) == data
    assert plain(again) == plain(batch)
    assert (again.label_weights is None) != label_weights
    assert np.shares_memory(again.bags["user"].ids, np.frombuffer(data, np.uint8))


def test_every_flipped_byte_and_every_cut_is_noticed():
    data = to_bytes(batch_of([([1, 2], 1, 0.5), ([3], 2, 0.25)], weighted=True))
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        with pytest.raises((CorruptError, VersionError)):
            from_bytes(bytes(damaged))
        with pytest.raises(CorruptError):
            from_bytes(data[:at])


def test_golden_batch_is_read_and_written_as_ever():
    golden = bytes.fromhex((Path(__file__).parents[1] / "golden" / "batch_v1.hex").read_text())
    batch = batch_of([([1, 2], 1, 0.5), ([], 3, -1.0), ([9], 8, 0.25)], weighted=True)
    assert to_bytes(batch) == golden
    assert plain(from_bytes(golden)) == plain(batch)


def test_slices_share_memory():
    batch = batch_of([([1, 2], 1, 0.5), ([3], 2, 0.25)])
    assert np.shares_memory(batch[1:].bags["tags"].ids, batch.bags["tags"].ids)
    assert np.shares_memory(batch[1:].dense["price"], batch.dense["price"])


def test_a_join_of_weighted_and_plain_bags_weighs_the_plain_ones_one():
    rows = [([1, 2], 1, 0.5)]
    joined = concatenated([batch_of(rows), batch_of(rows, weighted=True)])
    assert joined.bags["tags"].weights.tolist() == [1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(2, np.float32)}, "labels: float32 of shape"),
        ({"rates": np.zeros(2, np.float64)}, "rates: float64"),
        ({"event_time_ms": np.zeros(3, np.int64)}, "of shape"),
        ({"dense": {"price": np.zeros((3, 1), np.float32)}}, "dense feature 'price'"),
        (
            {"bags": {"user": Bag(np.zeros(1, np.int64), np.ones(1, np.int32))}},
            "feature 'user' has 1 samples, the batch has 2",
        ),
        ({"label_weights": np.zeros((2, 2), np.float32)}, "label_weights"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(change, message):
    batch = batch_of([([1, 2], 1, 0.5), ([3], 2, 0.25)])
    fields = {name: getattr(batch, name) for name in Batch.__slots__}
    with pytest.raises(InputError, match=message):
        Batch(**{**fields, **change})


def test_other_joins_and_slices_are_refused():
    batch = batch_of([([1], 1, 0.5)])
    with pytest.raises(InputError, match="no batch"):
        concatenated([])
    with pytest.raises(InputError, match="in steps of 2"):
        batch[::2]
    with pytest.raises(InputError, match="one bool each"):
        batch.where({"tags": np.zeros(3, bool)})
