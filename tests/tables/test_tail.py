"""Ids without a row share the rows of a tail: how they choose, what trains them, how they are kept and published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import reference

from monolith.errors import ConfigError, CorruptError, InputError, NonFiniteError
from monolith.tables import (
    Table,
    TableConfig,
    TableFile,
    absent,
    admission,
    eviction,
    initializers,
    optimizers,
    set_threads,
    threads,
)
from monolith.tables.published import owner_of, published
from monolith.tables.tail import tail_name, tail_numbers

STRANGERS = np.array([-(2**63), -7, 0, 5, 12, 99, 2**40, 2**63 - 1])


def tail_table(rows: int = 3, **settings) -> Table:
    fields = {"dim": 4, "optimizer": optimizers.Adagrad(), "admission": admission.Never(), "seed": 5}
    rule = absent.HashedTail(rows=rows, start_from_tail=settings.pop("start_from_tail", False))
    return Table(TableConfig(name="user", absent=rule, **(fields | settings)))


def ones(n: int, dim: int = 4) -> np.ndarray:
    return np.ones((n, dim), np.float32)


# --- which row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 1024, 2**20])
def test_choice_is_the_references(rows):
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 20_000, dtype=np.int64)
    numbers = tail_numbers(ids, rows)
    np.testing.assert_array_equal(numbers, reference.tail_numbers(ids, rows))
    assert 0 <= numbers.min() <= numbers.max() < rows


def test_choice_is_even():
    counts = np.bincount(tail_numbers(np.arange(100_000), 100), minlength=100)
    assert 850 < counts.min() <= counts.max() < 1150  # 1,000 +- 32 each


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
def test_first_values_are_the_references(storage):
    table = tail_table(storage=storage, initializer=initializers.TruncatedNormal())
    first = reference.initial_values(table.config, reference.tail_ids(3))
    np.testing.assert_array_equal(table.tail(), first)
    np.testing.assert_array_equal(table.lookup(STRANGERS), first[tail_numbers(STRANGERS, 3)])


# --- what trains it ---------------------------------------------------------------------------------------------------


def test_strangers_train_the_row_that_they_share_by_its_own_state():
    table, apart = tail_table(1), Table(TableConfig(name="apart", dim=4, optimizer=optimizers.Adagrad()))
    mine = np.array([8])
    apart.apply(replace(apart.delta(0), sequence=1, ids=mine, values=table.tail()))
    for _ in range(3):
        table.apply_gradients(STRANGERS, ones(8))
        apart.apply_gradients(np.repeat(mine, 8), ones(8))
    np.testing.assert_array_equal(table.lookup(STRANGERS), np.repeat(apart.lookup(mine), 8, axis=0))
    stats = table.stats()
    assert (len(table), stats.rows, stats.tail_rows, stats.dropped_gradients) == (0, 0, 1, 0)
    assert (stats.bytes_values, stats.bytes_state) == (16, 16)


def test_zeros_stay_zeros_and_drop():
    table = Table(TableConfig(name="user", dim=4, admission=admission.Never()))
    table.apply_gradients(STRANGERS, ones(8))
    assert not table.lookup(STRANGERS).any()
    assert table.tail().shape == (0, 4)
    assert (table.stats().tail_rows, table.stats().dropped_gradients) == (0, 8)


def test_ids_with_rows_are_not_touched_by_strangers():
    table = tail_table(1, admission=admission.MinCount(2))
    known = np.arange(1000, 1010)
    for _ in range(2):
        table.observe(known)
    before, tail = table.lookup(known), table.tail()
    table.apply_gradients(STRANGERS, ones(8))
    np.testing.assert_array_equal(table.lookup(known), before)
    table.apply_gradients(known, ones(10))
    assert (table.lookup(known) != before).all()
    assert (table.tail() != tail).all()


def test_refused_gradient_of_a_stranger_names_it_and_changes_nothing(state_of):
    table = tail_table()
    before, bad = state_of(table), ones(8)
    bad[5, 2] = np.nan
    with pytest.raises(NonFiniteError, match="position 5, of id 99"):
        table.apply_gradients(STRANGERS, bad)
    assert state_of(table) == before


@pytest.mark.parametrize("policy", ["skip_row", "clip"])
def test_nonfinite_gradients_of_strangers_meet_the_policy(policy):
    table = tail_table(1, on_nonfinite=policy, optimizer=optimizers.SGD(lr=1.0))
    first, bad = table.tail(), ones(8)
    bad[3] = np.inf
    table.apply_gradients(STRANGERS, bad)
    moved = first if policy == "skip_row" else first - 8  # 7 and one that was cut to max_gradient
    np.testing.assert_allclose(table.tail(), moved, rtol=1e-6)
    assert table.stats().nonfinite == 1


def test_global_norm_is_of_shared_rows_as_well():
    optimizer = optimizers.SGD(lr=1.0, clip_global_norm=2.0)
    table = tail_table(1, admission=admission.MinCount(2), optimizer=optimizer)
    table.observe(np.array([7, 7]))
    both = np.array([7, 8])
    before = table.lookup(both)
    table.apply_gradients(both, ones(2))
    np.testing.assert_allclose(before - table.lookup(both), ones(2) * 2 / np.sqrt(8), rtol=1e-5)


@pytest.fixture
def crews() -> Iterator[list[int]]:
    before = threads()
    yield [1, 2, 3, 4]
    set_threads(before)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_threads_change_no_bit(crews, state_of, storage):
    states, read = [], []
    for crew in crews:
        set_threads(crew)
        rng = np.random.default_rng(3)
        rule = {"admission": admission.MinCount(3), "storage": storage, "start_from_tail": True}
        table = tail_table(7, optimizer=optimizers.Adam(), **rule)
        for _ in range(4):
            ids = rng.zipf(1.3, 20_000) % 9000
            step = table.step(ids)
            table.observe(rng.integers(0, 9000, 50))  # so that the rows are looked for again
            step.apply_gradients(rng.standard_normal((20_000, 4)).astype(np.float32))
            table.apply_gradients(ids, rng.standard_normal((20_000, 4)).astype(np.float32))
            read.append(step.values.tobytes())
        states.append(state_of(table))
    assert set(states) == {states[0]}
    assert read == read[:4] * len(crews)


# --- rows of their own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("start_from_tail", [False, True])
def test_admission_starts_from_the_tail_if_asked_to(storage, start_from_tail):
    rule = {"storage": storage, "start_from_tail": start_from_tail}
    table = tail_table(admission=admission.MinCount(2), optimizer=optimizers.RowWiseAdagrad(), **rule)
    table.observe(STRANGERS)
    table.apply_gradients(STRANGERS, ones(8))
    shared = table.lookup(STRANGERS)
    table.observe(STRANGERS)
    assert len(table) == 8
    first = shared if start_from_tail else reference.initial_values(table.config, STRANGERS)
    np.testing.assert_array_equal(table.lookup(STRANGERS), first)


def test_row_that_starts_from_the_tail_has_fresh_state(tmp_path):
    table = tail_table(admission=admission.MinCount(2), start_from_tail=True)
    table.observe(STRANGERS)
    table.apply_gradients(STRANGERS, ones(8))
    table.observe(STRANGERS)
    table.save(tmp_path)
    with TableFile(tmp_path) as file:
        buckets = [file.bucket(number) for number in range(1024)]
    assert not np.concatenate([bucket["state"] for bucket in buckets]).any()
    assert np.concatenate([bucket["tail_state"] for bucket in buckets]).all()


def test_ftrl_columns_start_at_zero_in_any_case():
    table = tail_table(admission=admission.MinCount(2), optimizer=optimizers.FTRL(), start_from_tail=True)
    table.observe(STRANGERS)
    table.apply_gradients(STRANGERS, ones(8))
    assert table.lookup(STRANGERS).all()
    table.observe(STRANGERS)
    assert not table.lookup(STRANGERS).any()


def test_limit_of_rows_is_the_ids():
    table = tail_table(100, admission=admission.Always(), eviction=eviction.LRU(max_rows=4))
    for t in range(50):
        table.observe(np.arange(t, t + 2), event_time_ms=1000 * t)
    assert (len(table), table.stats().rows) == (4, 4)
    table.advance(10**6)
    table.sweep()
    assert table.tail().shape == (100, 4)


# --- files and deltas -------------------------------------------------------------------------------------------------


def trained_tail(rows: int = 5) -> Table:
    table = tail_table(rows)
    table.apply_gradients(STRANGERS, ones(8))
    table.cut()
    return table


def changed(config: TableConfig, rule: absent.Absent) -> TableConfig:
    return msgspec.structs.replace(config, absent=rule)


def test_number_of_rows_may_not_change(tmp_path):
    table = trained_tail()
    table.save(tmp_path)
    with pytest.raises(ConfigError, match=r"absent.rows = 5, the config says 6"):
        Table.open(tmp_path, changed(table.config, absent.HashedTail(rows=6)))
    opened = Table.open(tmp_path, changed(table.config, absent.HashedTail(rows=5, start_from_tail=True)))
    np.testing.assert_array_equal(opened.tail(), table.tail())


def test_tail_that_is_turned_off_is_dropped(tmp_path):
    table = trained_tail()
    table.save(tmp_path)
    opened = Table.open(tmp_path, changed(table.config, absent.AbsentZeros()))
    assert not opened.lookup(STRANGERS).any()
    assert opened.delta(0).tail is None


def test_tail_that_is_turned_on_starts_afresh_and_is_in_the_next_delta(tmp_path):
    table = Table(TableConfig(name="user", dim=4, seed=5))
    table.observe(np.arange(10))
    held = table.cut()
    table.save(tmp_path)
    opened = Table.open(tmp_path, changed(table.config, absent.HashedTail(rows=5)))
    np.testing.assert_array_equal(opened.tail(), tail_table(5).tail())
    opened.cut()
    delta = opened.delta(held)
    assert (delta.ids.tolist(), delta.tail.ids.tolist()) == ([], [0, 1, 2, 3, 4])


def test_deltas_hold_the_shared_rows_that_were_written():
    table = tail_table(50)
    table.cut()
    assert table.delta(0).tail.ids.tolist() == list(range(50))
    table.apply_gradients(STRANGERS[:3], ones(3))
    table.cut()
    delta = table.delta(1)
    assert delta.ids.tolist() == []
    assert delta.tail.ids.tolist() == sorted(set(tail_numbers(STRANGERS[:3], 50).tolist()))
    np.testing.assert_array_equal(delta.tail.values, table.tail()[delta.tail.ids])


def test_replica_reads_what_the_trainer_reads():
    table = trained_tail()
    replica = Table(changed(TableConfig(name="replica", dim=4), table.config.absent))
    replica.apply(table.delta(0))
    for _ in range(3):
        table.apply_gradients(STRANGERS[:2], ones(2))
        table.apply_gradients(STRANGERS[4:], ones(4))
        table.cut()
        replica.apply(table.delta(replica.sequence - 1))
        np.testing.assert_array_equal(replica.lookup(STRANGERS), table.lookup(STRANGERS))


@pytest.mark.parametrize(
    ("rule", "change", "said"),
    [
        (absent.AbsentZeros(), {}, "has a tail, table 'replica' one of 0 rows"),
        (absent.HashedTail(rows=5), {"tail": None}, "has no tail, table 'replica' one of 5"),
        (absent.HashedTail(rows=6), {}, "is not one of 6 rows"),
        (absent.HashedTail(rows=4), {"base_sequence": 1}, "is not one of 4 rows"),
    ],
)
def test_delta_of_another_tail_is_refused(rule, change, said):
    replica = Table(changed(TableConfig(name="replica", dim=4), rule))
    before = replica.tail()
    with pytest.raises(InputError, match=said):
        replica.apply(replace(trained_tail().delta(0), **change))
    np.testing.assert_array_equal(replica.tail(), before)


def test_file_whose_buckets_lack_shared_rows_is_refused(tmp_path):
    path = trained_tail().save(tmp_path)
    more = tail_table(6).save(tmp_path / "more")
    fewer, more = path.read_bytes(), more.read_bytes()
    path.write_bytes(more.replace(b'"tail_rows":6', b'"tail_rows":5'))
    with pytest.raises(CorruptError, match="header fails its checksum"):
        Table.open(tmp_path)
    path.write_bytes(resealed(fewer, b'"tail_rows":5', b'"tail_rows":6'))
    with pytest.raises(CorruptError, match="bucket 5 has 0 rows of the tail, not 1"):
        Table.open(tmp_path)


def resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with other bytes in its header, whose checksum is right."""
    import struct
    import zlib

    end = 16 + int.from_bytes(data[12:16], "little")
    head = data[:end].replace(old, new)
    assert head != data[:end]
    return head + struct.pack("<I", zlib.crc32(head)) + data[end + 4 :]


# --- names and limits -------------------------------------------------------------------------------------------------


def test_published_tables_have_names_that_no_table_has():
    with_tail, plain = trained_tail(), Table(TableConfig(name="item", dim=2))
    seen = published({"user": with_tail, "item": plain})
    assert list(seen) == ["user", "item", "user#tail"]
    assert [owner_of(name) for name in seen] == ["user", "item", "user"]
    numbers, values = seen[tail_name("user")].rows()
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(values, with_tail.tail())
    with pytest.raises(ConfigError, match="'#', which marks the rows that absent ids share"):
        Table(TableConfig(name="user#tail", dim=2))


@pytest.mark.parametrize("rows", [0, 2**20 + 1])
def test_number_of_shared_rows_has_limits(rows):
    with pytest.raises(ConfigError, match=r"absent.rows"):
        tail_table(rows)
