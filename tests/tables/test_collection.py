"""One call of a collection gives the bits of its tables stepped one by one, on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.errors import InputError, NonFiniteError
from monolith.tables import Table, TableConfig, absent, admission, eviction, expiry, optimizers, set_threads, threads
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output
from monolith.tables.hashing import salted
from monolith.tables.pooling import pool, spread

OUTPUTS = [
    Output("user", "user", "user"),
    Output("seen", "seen", "movie", salted=True),
    Output("shown", "shown", "movie", salted=True),
    Output("tag", "tag", "tag"),
]


def tables(rng: np.random.Generator, dim: int = 4) -> dict[str, Table]:
    pooling = str(rng.choice(["sum", "mean"]))
    admitted = admission.MinCount(2) if rng.random() < 0.5 else admission.Always()
    tail = absent.HashedTail(rows=7, start_from_tail=bool(rng.random() < 0.5))
    shared = tail if rng.random() < 0.5 else absent.AbsentZeros()
    common = {"absent": shared, "admission": admitted, "expiry": expiry.Idle(ttl_s=2.0), "on_nonfinite": "skip_row"}
    return {
        "user": Table(TableConfig(name="user", dim=dim, optimizer=optimizers.Adam(), **common)),
        "movie": Table(TableConfig(name="movie", dim=dim, features=["seen", "shown"], pooling=pooling, **common)),
        "tag": Table(TableConfig(name="tag", dim=2 * dim, pooling=pooling, storage="bfloat16", **common)),
    }


def bag(rng: np.random.Generator, samples: int, ids: int) -> Bag:
    shape = rng.integers(0, 4)
    lengths = np.ones(samples, np.int32) if shape == 0 else rng.integers(0, 4, samples).astype(np.int32)
    values = rng.integers(0, ids, int(lengths.sum()))
    weights = rng.normal(size=len(values)).astype(np.float32) if shape == 2 else None
    return Bag(values, lengths, weights)


class OneByOne:
    """The same, by what each table has alone."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self.tables = tables

    def step(self, bags: list[Bag], times: np.ndarray, grads: list[np.ndarray | None]) -> np.ndarray:
        vectors = {}
        updates = []
        for name, table in self.tables.items():
            parts = [(out, one, grad) for out, one, grad in zip(OUTPUTS, bags, grads, strict=True) if out.table == name]
            keys = [salted(out.feature, one.ids) if out.salted else one.ids for out, one, _ in parts]
            seen = np.concatenate([np.repeat(times, one.lengths) for _, one, _ in parts])
            rows = table.step(np.concatenate(keys), event_time_ms=seen).values
            for (out, one, _), part in zip(parts, np.split(rows, np.cumsum([len(k) for k in keys])[:-1]), strict=True):
                vectors[out.name] = pool(part, one, table.config.pooling)
            with np.errstate(invalid="ignore"):
                given = [
                    (k, spread(g, one, table.config.pooling))
                    for k, (_, one, g) in zip(keys, parts, strict=True)
                    if g is not None
                ]
            if given:
                ids, gradients = zip(*given, strict=True)
                updates.append((table, np.concatenate(ids), np.ascontiguousarray(np.concatenate(gradients))))
        for table, ids, gradients in updates:
            table.apply_gradients(ids, gradients)
        return np.concatenate([vectors[out.name] for out in OUTPUTS], axis=1)


def files(tables: dict[str, Table], folder) -> list[bytes]:
    return [table.save(folder / name).read_bytes() for name, table in tables.items()]


@pytest.fixture(params=[1, 2, 4])
def crew(request: pytest.FixtureRequest) -> Iterator[int]:
    before = threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


def compare(seed: int, samples: int, ids: int, folder) -> None:
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    together, apart = Collection(tables(rng), OUTPUTS), OneByOne(tables(same))
    for k in range(4):
        bags = [bag(rng, samples, ids) for _ in OUTPUTS]
        times = k * 1500 + rng.integers(0, 3000, samples)
        whole = rng.normal(size=(samples, sum(together.dims))).astype(np.float32)
        whole[rng.random(samples) < 0.01, 3] = rng.choice([0.5, np.nan, np.inf])
        grads: list[np.ndarray | None] = np.split(whole, np.cumsum(together.dims)[:-1], axis=1)
        if rng.random() < 0.5:
            grads[int(rng.integers(0, len(grads)))] = None
        read = together.lookup(bags)
        step = together.forward(bags, times)
        np.testing.assert_array_equal(step.vectors, apart.step(bags, times, grads))
        step.apply_gradients(grads)
        assert read.shape == step.vectors.shape
    for name, table in together.tables.items():
        assert replace(table.stats(), bytes_scratch=0) == replace(apart.tables[name].stats(), bytes_scratch=0)
    assert files(together.tables, folder / "together") == files(apart.tables, folder / "apart")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(0, 40))
def test_one_call_gives_the_bits_of_many(seed, samples, tmp_path_factory):
    compare(seed, samples, 30, tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize("seed", range(4))
def test_threads_change_no_bit(crew, seed, tmp_path):
    compare(seed, 9000, 6000, tmp_path)


@pytest.mark.parametrize("large", [0, 1, 3])
def test_threads_change_no_bit_where_one_feature_has_nearly_all_ids(crew, large, tmp_path):
    """Its table's groups are worked on beside the other tables."""
    rng, same = np.random.default_rng(large), np.random.default_rng(large)
    together, apart = Collection(tables(rng), OUTPUTS), OneByOne(tables(same))
    for k in range(3):
        lengths = [np.full(1500, 30 if i == large else 1, np.int32) for i in range(len(OUTPUTS))]
        bags = [Bag(rng.integers(0, 9000, int(n.sum())), n) for n in lengths]
        times = k * 1500 + rng.integers(0, 3000, 1500)
        whole = rng.normal(size=(1500, sum(together.dims))).astype(np.float32)
        grads: list[np.ndarray | None] = [*np.split(whole, np.cumsum(together.dims)[:-1], axis=1)]
        step = together.forward(bags, times)
        np.testing.assert_array_equal(step.vectors, apart.step(bags, times, grads))
        step.apply_gradients(grads)
    assert files(together.tables, tmp_path / "together") == files(apart.tables, tmp_path / "apart")


def test_lookup_reads_what_forward_read_and_changes_nothing(crew, tmp_path):
    rng = np.random.default_rng(3)
    collection = Collection(tables(rng), OUTPUTS)
    bags = [bag(rng, 9000, 4000) for _ in OUTPUTS]
    for _ in range(2):
        vectors = collection.forward(bags, 1000).vectors
    before = files(collection.tables, tmp_path / "before")
    np.testing.assert_array_equal(collection.lookup(bags), vectors)
    assert files(collection.tables, tmp_path / "after") == before


def test_nonfinite_gradient_names_where_it_is_and_no_table_changes(tmp_path):
    rng = np.random.default_rng(0)
    config = {"dim": 2, "optimizer": optimizers.SGD(lr=1.0)}
    pair = {name: Table(TableConfig(name=name, **config)) for name in ("a", "b")}
    collection = Collection(pair, [Output("a", "a", "a"), Output("b", "b", "b")])
    step = collection.forward(
        [Bag(np.arange(3), np.ones(3, np.int32)), Bag(np.arange(4), np.array([1, 0, 3], np.int32))]
    )
    before = files(pair, tmp_path / "before")
    bad = np.zeros((3, 2), np.float32)
    bad[2, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"table 'b' \(feature 'b', id number 1 of the batch\)"):
        step.apply_gradients([rng.normal(size=(3, 2)).astype(np.float32), bad])
    assert files(pair, tmp_path / "after") == before
    bad[2, 1], bad[1] = 0.0, np.nan  # the gradient of a sample without ids reaches no row
    step.apply_gradients([None, bad])
    with pytest.raises(InputError, match="run forward again"):
        step.apply_gradients([None, bad])


def test_number_of_threads_has_limits():
    for wrong in (0, 65, -1):
        with pytest.raises(InputError, match="threads"):
            set_threads(wrong)


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ([np.zeros((3, 1), np.float32)], r"gradient of 'a' is float32 of shape \(3, 1\).*\(3, 2\)"),
        ([np.zeros((2, 2), np.float32)], r"of shape \(2, 2\)"),
        ([np.zeros((3, 2))], "is float64"),
    ],
)
def test_gradient_of_another_shape_or_type_is_refused(grads, message, tmp_path):
    table = Table(TableConfig(name="a", dim=2, optimizer=optimizers.SGD(lr=1.0)))
    step = Collection({"a": table}, [Output("a", "a", "a")]).forward([Bag(np.arange(3), np.ones(3, np.int32))])
    before = files({"a": table}, tmp_path / "before")
    with pytest.raises(InputError, match=message):
        step.apply_gradients(grads)
    assert files({"a": table}, tmp_path / "after") == before
    step.apply_gradients([np.ones((3, 2), np.float32)])


@pytest.mark.parametrize("samples", [0, 1, 17])
def test_gradients_side_by_side_give_the_bits_of_one_a_feature(samples, tmp_path):
    rngs = [np.random.default_rng(samples) for _ in range(2)]
    apart, together = (Collection(tables(rng), OUTPUTS) for rng in rngs)
    for k in range(4):
        for rng, collection in zip(rngs, (apart, together), strict=True):
            step = collection.forward([bag(rng, samples, 30) for _ in OUTPUTS], k * 1500)
            grads = rng.normal(size=(samples, sum(collection.dims))).astype(np.float32)
            if collection is apart:
                step.apply_gradients(np.split(grads, np.cumsum(collection.dims)[:-1], axis=1))
            else:
                step.apply_matrix(np.asfortranarray(grads) if k == 3 else grads)
    assert files(apart.tables, tmp_path / "apart") == files(together.tables, tmp_path / "together")


def test_gradients_side_by_side_of_another_shape_or_type_are_refused():
    collection = Collection(tables(np.random.default_rng(0)), OUTPUTS)
    step = collection.forward([Bag(np.arange(2), np.ones(2, np.int32)) for _ in OUTPUTS], 1)
    width = sum(collection.dims)
    for wrong in (np.zeros((2, width - 1), np.float32), np.zeros((2, width))):
        with pytest.raises(InputError, match="gradient of 'all outputs' is float"):
            step.apply_matrix(wrong)
    step.apply_matrix(np.zeros((2, width), np.float32))
    with pytest.raises(InputError, match="backward ran a second time"):
        step.apply_matrix(np.zeros((2, width), np.float32))


def test_number_of_gradients_is_that_of_the_outputs():
    table = Table(TableConfig(name="a", dim=2, optimizer=optimizers.SGD(lr=1.0)))
    step = Collection({"a": table}, [Output("a", "a", "a")]).forward([Bag(np.arange(3), np.ones(3, np.int32))])
    with pytest.raises(InputError, match="2 gradients for 1 outputs"):
        step.apply_gradients([None, None])


@pytest.mark.parametrize("count", [1, 10_000])  # of ids: more than are worth threads
def test_score_function_that_calls_its_own_collection_is_refused_and_no_table_stays_locked(crew, count):
    name = f"calls its collection {crew} {count}"
    eviction.register(name, lambda rows: collection.forward([bag_of_two] * 2, 1))
    pair = {key: Table(TableConfig(name=key, dim=2, eviction=eviction.Score(name, max_rows=1))) for key in ("a", "b")}
    collection = Collection(pair, [Output("a", "a", "a"), Output("b", "b", "b")])
    bag_of_two = Bag(np.array([2]), np.ones(1, np.int32))
    for table in pair.values():
        table.observe(np.array([-1]), event_time_ms=0)
    with pytest.raises(InputError, match="a score function calls its own table"):
        collection.forward([Bag(np.arange(count), np.ones(count, np.int32))] * 2, 0)
    assert pair["a"].stats().rows == count + 1


@pytest.mark.parametrize("count", [1, 10_000])
def test_score_function_may_call_another_table_of_its_collection(crew, count):
    name = f"calls another {crew} {count}"
    eviction.register(name, lambda rows: np.full(len(rows.ids), pair["a"].stats().rows))
    pair = {"a": Table(TableConfig(name="a", dim=2))}
    pair["b"] = Table(TableConfig(name="b", dim=2, eviction=eviction.Score(name, max_rows=1)))
    collection = Collection(pair, [Output("a", "a", "a"), Output("b", "b", "b")])
    pair["b"].observe(np.array([-1]), event_time_ms=0)
    collection.forward([Bag(np.arange(count), np.ones(count, np.int32))] * 2, 0)
    assert (pair["a"].stats().rows, pair["b"].stats().rows) == (count, count)


def test_table_that_no_output_reads_is_left_alone(tmp_path):
    table = Table(TableConfig(name="a", dim=2))
    before = files({"a": table}, tmp_path / "before")
    Collection({"a": table}, []).forward([], 5).apply_gradients([])
    assert files({"a": table}, tmp_path / "after") == before
