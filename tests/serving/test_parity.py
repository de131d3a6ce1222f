"""What parity counts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from monolith.errors import InputError
from monolith.serving.parity import Parity, compare, compare_images, compare_rows
from monolith.serving.payload import RowFormat
from monolith.serving.store import open_store


def rows(**by_id):
    ids = sorted(int(name[1:]) for name in by_id)
    return np.array(ids, np.int64), np.array([[by_id[f"i{key}"]] * 2 for key in ids], np.float32).reshape(-1, 2)


def test_each_kind_of_difference_is_counted():
    trained = rows(i1=1.0, i2=2.0, i3=3.0, i4=0.0)
    stored = rows(i1=1.0, i2=2.5, i9=9.0, i8=8.0, i4=-0.0)
    assert compare_rows(trained, stored) == Parity(equal=1, missing=1, stale=2, zombie=2)


def test_the_same_nan_is_equal():
    assert compare_rows(rows(i1=np.nan), rows(i1=np.nan)).exact


def test_nothing_equals_nothing():
    assert compare_rows(rows(), rows()) == Parity(0, 0, 0, 0)


def test_a_published_model_is_exact_until_training_goes_on(recommender, samples):
    assert {parity.exact for parity in compare(recommender.store, recommender.tables).values()} == {True}
    recommender.learn([{"user": 1}, {"user": 777}])
    parity = compare(recommender.store, recommender.tables)["user"]
    assert (parity.equal, parity.missing, parity.stale, parity.zombie) == (1, 1, 1, 0)


def test_a_table_that_the_store_lacks_is_an_input_error(recommender):
    with pytest.raises(InputError, match="no table 'other'"):
        compare(recommender.store, {"other": recommender.tables["user"]})


def test_images_of_equal_runs_are_equal_and_differences_are_named(tmp_path, scripted):
    stores = []
    for number in (1, 2, 3):
        model = scripted(f"run-{number}")
        model.write(1, 2)
        model.write(3) if number < 3 else model.write(4, remove=(1,))
        store = open_store(f"lmdb://{tmp_path}/{number}", "demo")
        generation = store.take_over(model.card).generation
        store.apply(model.delta(0), generation, model.lineage)
        stores.append(store)
    assert compare_images(stores[0], stores[1]) == []
    (difference,) = compare_images(stores[0], stores[2])
    assert difference.startswith("table user: Parity(equal=1, missing=2, stale=0, zombie=1)")
    for store in stores:
        store.close()


class ShowsChunks:
    """What parity asks of a store."""

    def __init__(self, ids, values, rows_a_chunk):
        self.ids, self.values, self.rows_a_chunk = np.array(ids, np.int64), values, rows_a_chunk

    def packed_rows(self, name):
        form = RowFormat("float32", self.values.shape[1])
        for start in range(0, len(self.ids), self.rows_a_chunk):
            part = slice(start, start + self.rows_a_chunk)
            yield self.ids[part], form.pack(self.values[part]), form


class Holds:
    def __init__(self, ids, values):
        self.held = np.array(ids, np.int64), values

    def rows(self):
        return self.held


@pytest.mark.parametrize("rows_a_chunk", [1, 2, 3, 100])
def test_rows_that_a_scan_shows_twice_count_once(rows_a_chunk):
    values = np.arange(6, dtype=np.float32).reshape(6, 1)
    table = Holds([9, -4, 7, 2], values[:4])  # in no order
    store = ShowsChunks([7, 5, -4, 7, 5, 9, -4], values[[2, 5, 1, 2, 5, 4, 1]], rows_a_chunk)
    assert compare(store, {"user": table})["user"] == Parity(equal=2, missing=1, stale=1, zombie=1)


@pytest.mark.parametrize(("held", "shown"), [([], [1, 2]), ([1, 2], []), ([], [])])
def test_a_side_without_rows_is_all_missing_or_all_zombies(held, shown):
    table = Holds(held, np.zeros((len(held), 2), np.float32))
    store = ShowsChunks(shown, np.zeros((len(shown), 2), np.float32), 1)
    assert compare(store, {"user": table})["user"] == Parity(0, missing=len(held), stale=0, zombie=len(shown))


def test_comparing_takes_less_memory_than_the_rows():
    ids, values = np.arange(200_000), np.ones((200_000, 16), np.float32)
    store, table = ShowsChunks(ids, values, 5_000), Holds(ids, values)
    tracemalloc.start()
    try:
        parity = compare(store, {"user": table})["user"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parity == Parity(equal=200_000, missing=0, stale=0, zombie=0)
    assert most < values.nbytes / 2
