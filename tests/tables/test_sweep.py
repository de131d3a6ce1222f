"""A sweep's work is bounded by max_rows, in rows and in counters, and it goes round the whole table."""

import numpy as np
import pytest

from monolith.tables import Table, TableConfig, admission, expiry

COUNTED = admission.MinCount(3, half_life_s=1.0, max_counters=1 << 20)


def table_of(**settings) -> Table:
    return Table(TableConfig(name="user", dim=1, **settings))


def sweep_all(table: Table, max_rows: int, limit: int) -> list[int]:
    """How many counters and rows each sweep took, until nothing is left."""
    taken = []
    while (held := table.stats().counters + table.stats().rows) and len(taken) < limit:
        table.sweep(max_rows=max_rows)
        taken.append(held - table.stats().counters - table.stats().rows)
    return taken


def test_sweep_takes_no_more_counters_than_it_may_look_at():
    table = table_of(admission=COUNTED)
    table.observe(np.arange(30_000), event_time_ms=0)
    table.advance(10_000)
    taken = sweep_all(table, 100, 1000)
    assert (len(taken), max(taken), sum(taken)) == (300, 100, 30_000)


def test_large_bucket_of_counters_and_rows_is_swept_in_parts():
    """20 rows and 10 counters in each bucket: a part of one is more than a sweep may look at."""
    table = table_of(admission=COUNTED, expiry=expiry.Idle(ttl_s=1.0))
    table.observe(np.repeat(np.arange(20_000), 3), event_time_ms=0)
    table.observe(np.arange(20_000, 30_000), event_time_ms=0)
    assert (table.stats().rows, table.stats().counters) == (20_000, 10_000)
    table.advance(10_000)
    taken = sweep_all(table, 7, 5000)
    assert (len(taken), max(taken), sum(taken)) == (-(-30_000 // 7), 7, 30_000)


def test_sweep_looks_at_nothing_that_cannot_go():
    """Rows that never expire and counters that never halve are passed, however many there are."""
    table = table_of(admission=admission.MinCount(2), expiry=expiry.Forever())
    table.observe(np.repeat(np.arange(5_000), 2), event_time_ms=0)
    table.observe(np.arange(5_000, 9_000), event_time_ms=0)
    before = table.native.clockwork().sweep_cursor
    assert table.sweep(1, max_rows=1) == 0
    assert table.native.clockwork().sweep_cursor == before + (1 << 22)


@pytest.mark.parametrize("max_rows", [1, 5, 64, 10**6])
def test_sweep_goes_on_after_a_restore_where_it_ended(tmp_path, state_of, max_rows):
    tables = [table_of(admission=COUNTED, expiry=expiry.Idle(ttl_s=1.0)) for _ in range(2)]
    for t in range(25):
        for table in tables:
            table.observe(np.arange(t * 100, t * 100 + 900), event_time_ms=t * 100)
            table.sweep(max_rows=max_rows)
        tables[1].save(tmp_path)
        tables[1] = Table.open(tmp_path)
    assert state_of(tables[0]) == state_of(tables[1])


def test_sweep_of_buckets_meets_each_once_wherever_it_began():
    table = table_of(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(np.arange(8_000), event_time_ms=0)
    table.sweep(max_rows=3)  # somewhere within a bucket
    table.advance(5_000)
    assert sum(table.sweep(128) for _ in range(8)) == 8_000
