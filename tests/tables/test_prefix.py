"""Tables of kind optembed: collisionless rows of fewer columns than vectors have, which go where they stay small."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monolith.config.kinds import OptEmbed, kind_of
from monolith.errors import ConfigError, InputError
from monolith.tables import Table, TableConfig, absent, admission, expiry, optimizers
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output
from monolith.tables.hashing import salted
from monolith.tables.kinds import new_embedding, open_embedding, open_to_read
from monolith.tables.vectors import published_dims, readers_of

IDS = np.array([3, -8, 2**62, 3, 17, 10**12, 5], np.int64)
DAY_MS = 86_400_000


def config(name: str = "item", dim: int = 6, **settings: object) -> TableConfig:
    return TableConfig(name=name, dim=dim, **({"optimizer": optimizers.SGD(lr=1.0), "seed": 5} | settings))


def narrow(**settings: object) -> TableConfig:
    return config(**({"kind": "optembed", "width": 2} | settings))


def plain(**settings: object) -> TableConfig:
    """A collisionless table of the same rows."""
    return config(**({"dim": 2} | settings))


@pytest.mark.parametrize("tail", [absent.AbsentZeros(), absent.HashedTail(rows=3)], ids=["zeros", "tail"])
def test_vectors_are_the_rows_of_a_narrower_table_with_zeros_behind_them(tail):
    rules = {"admission": admission.MinCount(2), "expiry": expiry.Idle(ttl_s=5), "absent": tail}
    table, rows = new_embedding(narrow(**rules)), Table(plain(**rules))
    rng = np.random.default_rng(1)
    for step in range(4):
        begun, beside = table.begin(IDS, event_time_ms=step * 2000), rows.begin(IDS, event_time_ms=step * 2000)
        np.testing.assert_array_equal(begun.values, np.pad(beside.values, ((0, 0), (0, 4))))
        grads = rng.normal(size=(7, 6)).astype(np.float32)
        begun.check(grads)
        begun.apply(grads)
        beside.apply(np.ascontiguousarray(grads[:, :2]))
    table.begin(IDS[:1], event_time_ms=100_000)
    rows.begin(IDS[:1], event_time_ms=100_000)
    assert table.sweep(max_rows=100) == rows.sweep(max_rows=100) == 6 - 1
    np.testing.assert_array_equal(table.lookup(IDS)[:, :2], rows.lookup(IDS))
    assert (table.num_bytes(), len(table), table.dim) == (rows.num_bytes(), len(rows), 6)


def test_without_a_width_rows_are_as_wide_as_vectors():
    assert kind_of(config(kind="optembed")) == OptEmbed(6, 6)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_one_native_call_gives_the_bits_of_a_step_alone(pooling):
    """Two features of the table, salted apart, in a collection between two collisionless tables."""
    settings = narrow(features=["a", "b"], pooling=pooling)
    together, alone = new_embedding(settings), new_embedding(settings)
    outputs = [Output(n, n, t, salted=t == "item") for n, t in (("x", "x"), ("a", "item"), ("b", "item"), ("y", "y"))]
    tables = {"x": Table(config("x")), "item": together, "y": Table(config("y", dim=1))}
    collection = Collection(tables, outputs)
    ones = Bag(IDS, np.ones(7, np.int32))
    step = collection.forward([ones] * 4, 1_000)
    assert step.vectors.shape == (7, 6 + 6 + 6 + 1)
    keys = np.concatenate([salted("a", IDS), salted("b", IDS)])
    begun = alone.begin(keys, event_time_ms=1_000)
    np.testing.assert_array_equal(np.concatenate([step.vectors[:, 6:12], step.vectors[:, 12:18]]), begun.values)
    before = {name: tables[name].lookup(IDS[:3]).copy() for name in ("x", "y")}
    grads = np.random.default_rng(1).normal(size=(7, 19)).astype(np.float32)
    step.apply_matrix(grads)
    begun.apply(np.concatenate([grads[:, 6:12], grads[:, 12:18]]))
    np.testing.assert_array_equal(together.lookup(keys), alone.lookup(keys))
    np.testing.assert_array_equal(collection.lookup([ones] * 4)[:, 6:12], together.lookup(salted("a", IDS)))
    np.testing.assert_allclose(tables["y"].lookup(IDS[1:3]), before["y"][1:] - grads[1:3, 18:], rtol=1e-6)
    np.testing.assert_allclose(tables["x"].lookup(IDS[1:3]), before["x"][1:] - grads[1:3, :6], rtol=1e-6)


def test_rows_are_published_as_wide_as_they_are_and_read_as_wide_as_vectors():
    settings = narrow(absent=absent.HashedTail(rows=2))
    assert published_dims([settings]) == {"item": 2, "item#tail": 2}
    table = new_embedding(settings)
    table.begin(IDS)
    readers = readers_of(published_dims([settings]), {"item": kind_of(settings)})
    rows = {
        name: dict(zip(part.rows()[0].tolist(), part.rows()[1], strict=True))
        for name, part in table.published().items()
    }
    ((name, keys),) = readers["item"].requests(IDS)
    np.testing.assert_array_equal(
        readers["item"].vectors([np.array([rows[name][k] for k in keys.tolist()])]), table.lookup(IDS)
    )
    assert readers["item"].dim == 6


def test_a_saved_table_goes_on_with_the_same_bits_and_takes_no_other_width(tmp_path):
    settings = narrow(optimizer=optimizers.Adam(lr=0.1), threshold=0.02)
    table = new_embedding(settings)
    table.begin(IDS, event_time_ms=5).apply(np.ones((7, 6), np.float32))
    assert table.save(tmp_path).name == "kind.json"
    assert json.loads((tmp_path / "kind.json").read_text())["kind"] == {"dim": 6, "kind": "optembed", "width": 2}
    again = open_embedding(tmp_path, settings)
    for each in (table, again):
        each.begin(IDS[:2], event_time_ms=9).apply(np.ones((2, 6), np.float32))
    np.testing.assert_array_equal(table.lookup(IDS), again.lookup(IDS))
    assert len(open_to_read(tmp_path)) == 6
    with pytest.raises(ConfigError, match=r"'width': 2.*'width': 3"):
        open_embedding(tmp_path, narrow(width=3))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "optembed", "width": 7}, "width: allowed: 1 to dim, which is 6; saw 7"),
        ({"width": 3}, "a table of kind collisionless has no width; of kind optembed it has"),
        ({"kind": "optembed", "rows": 3}, "has no rows; of kind hashed, qr, unified and cafe it has"),
        (
            {"kind": "hashed", "rows": 3, "threshold": 0.1},
            "has no threshold; of kind collisionless and optembed it has",
        ),
        ({"probation_s": 5.0}, "rows are on probation where there is a threshold"),
        ({"threshold": float("inf")}, "threshold is inf, allowed is a finite number"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings, text):
    with pytest.raises(ConfigError, match=text):
        new_embedding(config(**settings))


# --- pruning ----------------------------------------------------------------------------------------------------------


def sizes(table) -> dict[int, float]:
    ids, values = table.published()["item"].rows()
    return dict(zip(ids.tolist(), np.abs(values).mean(axis=1).tolist(), strict=True))


@pytest.mark.parametrize("settings", [narrow, plain], ids=["optembed", "collisionless"])
def test_a_row_that_is_small_at_the_end_of_its_probation_goes_and_one_that_grew_stays(settings):
    table = new_embedding(settings(threshold=0.5, probation_s=10))
    ids = np.arange(100)
    grads = np.zeros((100, table.dim), np.float32)
    grads[::3] = -1.0  # every third row moves away from zero by one
    table.begin(ids, event_time_ms=1_000).apply(grads)
    table.advance(10_999)
    assert table.sweep(max_rows=1_000) == 0
    table.begin(np.array([1000]), event_time_ms=11_000)  # a new row, on probation until 21,000
    expected = {id_ for id_, size in sizes(table).items() if size > 0.5}
    assert table.sweep(max_rows=1_000) == 100 - len(expected) > 50
    assert set(sizes(table)) == expected | {1000}
    assert (table.stats().pruned, table.stats().swept, table.stats().evicted) == (100 - len(expected), 0, 0)


def test_a_pruned_id_is_gone_from_replicas_and_is_a_new_one_when_it_returns():
    table, replica = Table(plain(threshold=0.5, probation_s=10)), Table(plain())
    table.begin(IDS, event_time_ms=0)
    table.cut()
    replica.apply(table.delta(0))
    assert len(replica) == 6
    table.advance(10_000)
    table.sweep(max_rows=100)
    table.cut()
    replica.apply(table.delta(1))
    assert len(replica) == 0
    table.begin(IDS[:1], event_time_ms=12_000)
    table.advance(21_999)
    assert table.sweep(max_rows=100) == 0  # its probation began anew
    table.advance(22_000)
    assert table.sweep(max_rows=100) == 1


def test_a_threshold_of_zero_takes_rows_of_zeros_alone():
    from monolith.tables import initializers

    table = Table(plain(threshold=0.0, initializer=initializers.Zeros()))
    table.begin(IDS, event_time_ms=0).apply(np.ones((7, 2), np.float32) * (IDS == 3)[:, None])
    table.advance(DAY_MS)
    assert table.sweep(max_rows=100) == 5
    assert set(sizes(table)) == {3}


def test_pruning_is_the_same_after_a_restore_in_the_middle_of_a_round(tmp_path):
    """Bounded sweeps between steps, the table saved and opened half way: which rows are left, and their bits, agree."""
    settings, rng = narrow(threshold=0.4, probation_s=3), np.random.default_rng(3)
    steps = [(rng.integers(0, 400, 64), rng.normal(size=(64, 6)).astype(np.float32) * 0.3) for _ in range(60)]

    def run(table, part, first):
        for number, (ids, grads) in enumerate(part, first):
            table.begin(ids, event_time_ms=number * 500).apply(grads)
            table.advance(number * 500)
            table.sweep(max_rows=37)

    whole, before = new_embedding(settings), new_embedding(settings)
    run(whole, steps, 0)
    run(before, steps[:30], 0)
    before.save(tmp_path)
    after = open_embedding(tmp_path, settings)
    run(after, steps[30:], 30)
    assert whole.stats().pruned == after.stats().pruned > 100
    for left, right in zip(whole.published()["item"].rows(), after.published()["item"].rows(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_table_without_a_threshold_writes_the_settings_it_always_wrote(tmp_path):
    Table(plain()).save(tmp_path)
    assert b"threshold" not in (tmp_path / "table.bin").read_bytes()


def test_a_table_that_gets_a_threshold_has_its_rows_on_probation_from_when_they_were_last_seen(tmp_path):
    table = Table(plain())
    table.begin(IDS, event_time_ms=5_000)
    table.save(tmp_path)
    again = Table.open(tmp_path, plain(threshold=1.0, probation_s=10))
    again.advance(14_999)
    assert again.sweep(max_rows=100) == 0
    again.advance(15_000)
    assert again.sweep(max_rows=100) == 6


def test_gradients_of_another_shape_are_refused_before_anything_changes():
    table = new_embedding(narrow())
    step = table.begin(IDS)
    with pytest.raises(InputError):
        step.apply(np.ones((7, 2), np.float32))
