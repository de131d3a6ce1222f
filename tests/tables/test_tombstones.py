"""How many removed ids a table remembers for its deltas, and what it does once they are too many."""

import numpy as np
import pytest

from monolith.errors import GapError, InputError
from monolith.tables import Table, TableConfig, eviction, expiry

BYTES_A_TOMBSTONE = 48  # at most: 25 of index, 8 of list, which may be half empty
EMPTY_INDEX = 600_000  # bytes: 1,024 segments with a line or two each


def table_of(**settings) -> Table:
    return Table(TableConfig(name="user", dim=4, **{"eviction": eviction.LRU(max_rows=1000), **settings}))


def pass_by(table: Table, first: int, count: int) -> None:
    """``count`` new ids, each of which takes the place of another."""
    for start in range(first, first + count, 1000):
        table.observe(np.arange(start, start + 1000), event_time_ms=start)


@pytest.mark.parametrize("cut_every", [None, 2000, 50_000])
def test_tombstones_take_a_mebibyte_or_what_every_other_row_has(cut_every):
    """A table of few rows through which many ids pass, whether its sequences are cut or not."""
    table = table_of()
    for start in range(0, 200_000, 1000):
        pass_by(table, start, 1000)
        if cut_every and start % cut_every == 0:
            table.cut()
    stats = table.stats()
    assert stats.evicted > 190_000
    assert stats.tombstones <= 32_768
    assert stats.bytes_tombstones <= 32_768 * BYTES_A_TOMBSTONE + EMPTY_INDEX


def test_many_rows_may_have_more_tombstones():
    table = table_of(eviction=eviction.LRU(max_rows=100_000))
    table.observe(np.arange(100_000), event_time_ms=0)
    table.cut()
    pass_by(table, 10**6, 45_000)
    stats = table.stats()
    assert stats.tombstones == len(table.delta(1).removed) == stats.evicted >= 45_000
    pass_by(table, 10**7, 10_000)
    assert table.stats().tombstones == 0  # there are 55,000 of one sequence, and 100,000 rows


def test_ids_that_come_and_go_leave_no_lists_behind():
    """Each sequence removes the same ids, so that few tombstones stand in many lists."""
    table = Table(TableConfig(name="user", dim=1, expiry=expiry.Idle(ttl_s=1.0)))
    for t in range(0, 900_000, 3_000):
        table.observe(np.arange(2_000), event_time_ms=10**9 + t)
        table.advance(10**9 + t + 1_500)
        table.sweep()
        table.cut()
        table.observe(np.arange(2_000), event_time_ms=10**9 + t + 1_500)
    assert table.stats().swept == 600_000
    assert table.stats().bytes_tombstones < 2_000_000


def test_delta_from_before_what_was_forgotten_is_a_gap_and_the_image_is_whole():
    table, replica = table_of(), Table(TableConfig(name="user", dim=4))
    pass_by(table, 0, 1000)
    table.cut()
    replica.apply(table.delta(0))
    pass_by(table, 1000, 20_000)
    held = table.cut()
    pass_by(table, 50_000, 20_000)
    table.cut()
    with pytest.raises(GapError, match=r"removed since sequence 1 are known only from 2 on: take the full image"):
        table.delta(1)
    assert len(table.delta(held).removed) == 20_000
    replica.apply(table.delta(0))
    assert replica.rows()[0].tolist() == table.rows()[0].tolist()


def test_open_sequence_that_outgrows_the_bound_is_a_gap_until_the_next_cut(tmp_path):
    table = table_of()
    pass_by(table, 0, 1000)
    first = table.cut()
    pass_by(table, 1000, 40_000)
    with pytest.raises(GapError):
        table.delta(first)
    table.save(tmp_path)
    for each in (table, Table.open(tmp_path)):
        with pytest.raises(GapError):
            each.delta(first)
        each.observe(np.array([7]), event_time_ms=10**6)  # its tombstone is one that nobody needs any more
        assert each.stats().tombstones == 0
        second = each.cut()
        with pytest.raises(GapError):
            each.delta(first)
        assert each.delta(second).removed.tolist() == []
        each.observe(np.array([8]), event_time_ms=10**6)
        each.cut()
        assert len(each.delta(second).removed) == 1


def test_what_is_forgotten_is_the_same_after_a_restore(tmp_path, state_of):
    straight, winding = table_of(), table_of()
    rng = np.random.default_rng(0)
    for t in range(30):
        batch = rng.integers(0, 20_000, 4_000)
        for table in (straight, winding):
            table.observe(batch, event_time_ms=t)
            table.cut()
        winding.save(tmp_path)
        winding = Table.open(tmp_path)
    assert straight.stats().evicted > 40_000
    assert 0 < straight.stats().tombstones <= 32_768
    assert state_of(straight) == state_of(winding)


def test_table_that_nobody_asks_for_deltas_remembers_no_id():
    table, replica = table_of(), Table(TableConfig(name="user", dim=4), tombstones=None)
    since = 0
    for start in range(0, 5_000, 1_000):
        pass_by(table, start, 1000)
        now = table.cut()
        replica.apply(table.delta(since))
        since = now
        assert replica.rows()[0].tolist() == table.rows()[0].tolist()
        assert replica.stats().tombstones == replica.stats().bytes_tombstones - empty_bytes() == 0
    with pytest.raises(GapError, match="take the full image"):
        replica.delta(since - 1)
    assert replica.delta(0).ids.tolist() == table.rows()[0].tolist()


def empty_bytes() -> int:
    return Table(TableConfig(name="user", dim=4)).stats().bytes_tombstones


@pytest.mark.parametrize("wrong", [-1, 2**40 + 1, "all"])
def test_number_of_tombstones_has_limits(wrong):
    with pytest.raises(InputError, match="tombstones"):
        Table(TableConfig(name="user", dim=4), tombstones=wrong)
