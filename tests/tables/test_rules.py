"""Who gets a row, who loses it, and what a clock is."""

import numpy as np
import pytest
import reference

from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.tables import Table, admission, expiry, optimizers

DAY_MS = 86_400_000


def test_fresh_table_is_empty_and_before_all_time(make_table, ids):
    table = make_table()
    assert (len(table), table.sequence, table.clock_ms) == (0, 1, WATERMARK_START)
    assert not table.lookup(ids(1, 2)).any()


def test_lookup_changes_nothing(make_table, ids, state_of):
    table = make_table()
    table.observe(ids(1), event_time_ms=5)
    before = state_of(table)
    table.lookup(ids(1, 2, 3))
    assert state_of(table) == before


def test_every_64_bit_value_is_an_id(make_table, ids):
    table = make_table()
    odd = ids(0, -1, 1, 2**63 - 1, -(2**63))
    table.observe(odd)
    assert sorted(odd) == table.rows()[0].tolist()
    assert table.lookup(odd).tobytes() == reference.initial_values(table.config, odd).tobytes()


def test_two_ids_never_share_a_row(make_table):
    table = make_table(dim=1)
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 300_000, dtype=np.int64)
    ids = np.unique(np.concatenate([ids, np.arange(100_000), np.arange(0, 2**62, 2**46)]))
    table.observe(ids)
    table.apply_gradients(ids, (table.lookup(ids) - np.arange(len(ids), dtype=np.float32)[:, None]))
    assert np.array_equal(np.round(table.lookup(ids)[:, 0]), np.arange(len(ids)))
    assert len(table) == len(ids)


def test_growth_keeps_every_bit(make_table):
    small, large = np.arange(1000), np.arange(1000, 400_000)
    table = make_table(dim=3, optimizer=optimizers.Adagrad())
    table.observe(small)
    table.apply_gradients(small, np.ones((1000, 3), np.float32))
    before = table.lookup(small)
    table.observe(large)
    assert table.lookup(small).tobytes() == before.tobytes()


def test_order_of_arrival_leaves_no_trace(make_table, state_of):
    ids = np.random.default_rng(1).permutation(50_000)
    one, other = make_table(), make_table()
    one.observe(ids, event_time_ms=7)
    other.observe(np.sort(ids), event_time_ms=7)
    assert state_of(one) == state_of(other)


def test_chunks_of_a_batch_leave_no_trace(make_table, state_of):
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 300, 4000)
    settings = {"admission": admission.MinCount(3), "expiry": expiry.Idle(ttl_s=1.0)}
    whole, parts = make_table(**settings), make_table(**settings)
    whole.observe(ids, event_time_ms=1000)
    for part in np.array_split(ids, 37):
        parts.observe(part, event_time_ms=1000)
    assert state_of(whole) == state_of(parts)


def test_min_count_admits_at_its_occurrence_within_one_batch(make_table, ids):
    table = make_table(admission=admission.MinCount(3))
    table.observe(ids(1, 1, 2, 1, 2))
    assert table.rows()[0].tolist() == [1]
    table.observe(ids(2))
    assert table.rows()[0].tolist() == [1, 2]
    assert (table.stats().admitted, table.stats().rejected, table.stats().counters) == (2, 4, 0)


def test_min_count_of_one_admits_at_once(make_table, ids):
    table = make_table(admission=admission.MinCount(1))
    table.observe(ids(1))
    assert len(table) == 1


def test_never_admits_nobody(make_table, ids):
    table = make_table(admission=admission.Never())
    table.observe(ids(1, 1, 1))
    assert (len(table), table.stats().rejected) == (0, 3)


def test_counts_halve_with_each_half_life_without_the_id(make_table, ids):
    table = make_table(admission=admission.MinCount(4, half_life_s=10.0))
    table.observe(ids(1, 1, 1), event_time_ms=0)
    table.observe(ids(1), event_time_ms=19_999)  # 3 -> 1, and one more
    table.observe(ids(1), event_time_ms=19_999)
    assert len(table) == 0
    table.observe(ids(1), event_time_ms=19_999)
    assert len(table) == 1


def test_sweep_drops_counters_that_decayed_to_nothing(make_table, ids):
    table = make_table(admission=admission.MinCount(4, half_life_s=10.0))
    table.observe(ids(1, 1, 2), event_time_ms=0)
    table.advance(10_000)
    table.sweep(1024)
    assert table.stats().counters == 1


def test_full_bucket_of_counters_goes_down_by_one_and_does_not_keep_the_newcomer(make_table):
    pool = np.arange(200_000)
    same_bucket = pool[reference.bucket(pool) == 77][:4]
    table = make_table(admission=admission.MinCount(4, max_counters=3 * 1024))
    table.observe(np.repeat(same_bucket, [3, 2, 1, 1]))  # for the fourth there is no room: 3, 2, 1 -> 2, 1, gone
    assert (table.stats().counters, table.stats().counter_decrements) == (2, 1)
    table.observe(same_bucket[:1])
    assert len(table) == 0
    table.observe(same_bucket[:1])
    assert len(table) == 1


def test_probability_with_a_half_life_draws_anew_for_an_id_that_was_forgotten(make_table):
    """Without the time in its draw, an id that comes once a day would meet its first draw for ever."""
    ids = np.arange(2000)
    table = make_table(admission=admission.Probability(0.5, half_life_s=1.0))
    for day in range(1, 12):
        table.observe(ids, event_time_ms=day * DAY_MS)
    assert len(table) == 2000 - np.count_nonzero(
        np.all([reference.admission_draws(table.config, ids, 1, day * DAY_MS) >= 0.5 for day in range(1, 12)], axis=0)
    )
    assert len(table) > 1990


def test_row_goes_at_its_age_however_often_its_id_is_seen(make_table, ids):
    table = make_table(expiry=expiry.Absolute(ttl_s=1.0))
    for t in range(1000, 2001, 100):
        table.observe(ids(1), event_time_ms=t)
        assert table.lookup(ids(1)).any()
    table.advance(2001)
    assert not table.lookup(ids(1)).any()
    table.observe(ids(1), event_time_ms=2001)  # a new id, whose age begins anew
    assert (table.stats().expired, table.stats().expired_age, table.stats().admitted) == (1, 1, 2)
    table.advance(3001)
    assert table.lookup(ids(1)).any()


def test_idle_with_an_age_takes_rows_by_either(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0, max_age_s=3.0))
    table.observe(ids(1, 2), event_time_ms=0)
    for t in (900, 1800, 2700):
        table.observe(ids(1), event_time_ms=t)
    table.advance(3001)
    assert table.rows()[0].tolist() == []
    assert table.sweep() == 2
    assert (table.stats().expired_idle, table.stats().expired_age, table.stats().swept) == (1, 1, 2)


def test_event_older_than_the_age_gives_no_row(make_table, ids):
    table = make_table(expiry=expiry.Absolute(ttl_s=1.0))
    table.advance(10_000)
    table.observe(ids(1, 2), event_time_ms=np.array([8_999, 9_000]))
    assert (table.rows()[0].tolist(), table.stats().late) == ([2], 1)


def test_clock_goes_to_the_latest_time_before_the_first_id(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    table.observe(ids(1, 2), event_time_ms=np.array([1500, 2600]))  # id 1 expired, and its event is too old for a row
    assert table.rows()[0].tolist() == [2]
    assert (table.stats().expired, table.stats().late) == (1, 1)


def test_clock_never_goes_back(make_table, ids):
    table = make_table()
    table.observe(ids(1), event_time_ms=1000)
    table.observe(ids(1), event_time_ms=10)
    table.advance(20)
    assert table.clock_ms == 1000
    table.advance(1001)
    assert table.clock_ms == 1001


def test_end_of_a_stream_does_not_expire_rows(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    table.advance(WATERMARK_END)
    table.advance(WATERMARK_START)
    assert (table.clock_ms, len(table.rows()[0])) == (1000, 1)


def test_row_expires_when_it_was_idle_for_longer_than_its_time_to_live(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    table.advance(2000)
    assert table.lookup(ids(1)).any()
    table.advance(2001)
    assert not table.lookup(ids(1)).any()
    assert len(table.rows()[0]) == 0
    assert (len(table), table.sweep(1024), len(table)) == (1, 1, 0)


def test_late_event_refreshes_only_forward(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    table.observe(ids(1), event_time_ms=400)
    table.advance(1900)
    assert table.lookup(ids(1)).any()


def test_observing_without_a_time_refreshes_to_the_clock(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    table.advance(1900)
    table.observe(ids(1))
    table.advance(2900)
    assert table.lookup(ids(1)).any()


def test_gradient_with_a_time_refreshes_its_row(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1, 2, 3), event_time_ms=1000)
    grads = np.zeros((4, 4), np.float32)
    table.apply_gradients(ids(1, 2, 1, 3), grads, event_time_ms=np.array([1700, 1200, 1100, 900]))
    table.advance(2201)
    assert table.rows()[0].tolist() == [1]
    table.apply_gradients(ids(1, 1, 1, 1), grads, event_time_ms=2100)
    table.advance(3100)
    assert table.rows()[0].tolist() == [1]


def test_expired_id_that_returns_is_a_new_id(make_table, ids):
    rule = optimizers.Adagrad(lr=0.1)
    table = make_table(expiry=expiry.Idle(ttl_s=1.0), admission=admission.MinCount(2), optimizer=rule)
    fresh = make_table(admission=admission.MinCount(2), optimizer=rule)
    grads = np.ones((1, 4), np.float32)
    table.observe(ids(1, 1), event_time_ms=1000)
    table.apply_gradients(ids(1), grads)
    table.observe(ids(1), event_time_ms=5000)
    assert not table.lookup(ids(1)).any()  # its count began again
    table.observe(ids(1), event_time_ms=5000)
    fresh.observe(ids(1, 1))
    for each in (table, fresh):
        each.apply_gradients(ids(1), grads)
    assert table.lookup(ids(1)).tobytes() == fresh.lookup(ids(1)).tobytes()


def test_gradient_of_an_expired_or_absent_id_is_dropped_and_counted(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1), event_time_ms=1000)
    table.advance(3000)
    table.apply_gradients(ids(1, 2), np.ones((2, 4), np.float32), event_time_ms=3000)
    assert table.stats().dropped_gradients == 2
    assert not table.lookup(ids(1)).any()


def test_event_older_than_the_time_to_live_gives_no_row(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.advance(10_000)
    table.observe(ids(1, 2), event_time_ms=np.array([8_999, 9_000]))
    assert table.rows()[0].tolist() == [2]
    assert table.stats().late == 1


def test_sweep_goes_round_the_buckets_in_turn(make_table):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    ids = np.arange(5000)
    table.observe(ids, event_time_ms=0)
    table.advance(5000)
    in_bucket = np.bincount(reference.bucket(ids), minlength=1024)
    assert table.sweep(100) == in_bucket[:100].sum()
    assert table.sweep(900) == in_bucket[100:1000].sum()
    table.observe(ids[reference.bucket(ids) < 100], event_time_ms=5000)
    table.advance(10_000)
    assert table.sweep(124) == in_bucket[1000:].sum() + in_bucket[:100].sum()


def test_sweep_ends_behind_the_last_row_that_it_may_look_at(make_table):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.observe(np.arange(5000), event_time_ms=0)
    table.advance(5000)
    assert table.sweep(max_rows=700) == 700
    assert table.sweep(max_rows=1) == 1
    assert table.sweep() == 5000 - 701


def test_removed_rows_places_are_used_again(make_table):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    for round_ in range(5):
        table.observe(np.arange(1000) + 1000 * round_, event_time_ms=round_ * 5000)
        table.sweep(1024)
    stats = table.stats()
    assert stats.rows == 1000
    assert stats.rows + stats.free_rows <= 2000


def test_overhead_stays_below_forty_bytes_a_row(make_table):
    table = make_table(dim=16, optimizer=optimizers.RowWiseAdagrad())
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(16):
        table.observe(rng.integers(-(2**63), 2**63 - 1, 100_000, dtype=np.int64))
        stats = table.stats()
        if stats.rows >= 1_000_000:
            worst = max(worst, stats.bytes_overhead / stats.rows)
    assert 16 < worst <= 40


@pytest.mark.parametrize("empty", [lambda t: t.observe, lambda t: t.lookup])
def test_empty_batches_are_fine(make_table, ids, empty):
    table = make_table()
    empty(table)(ids())
    table.apply_gradients(ids(), np.zeros((0, 4), np.float32))
    assert len(table) == 0


def test_len_zero_table_opens_and_saves(tmp_path, make_table):
    make_table().save(tmp_path)
    assert len(Table.open(tmp_path)) == 0


def test_last_seen_days_apart(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=3 * 86_400.0))
    for day in range(1, 11):
        table.observe(ids(day), event_time_ms=day * DAY_MS)
    table.sweep(1024)
    assert table.rows()[0].tolist() == [7, 8, 9, 10]


def test_contains_tells_which_ids_have_rows_that_did_not_expire(make_table, ids):
    table = make_table(expiry=expiry.Idle(ttl_s=1))
    table.observe(ids(5, -7), event_time_ms=1_000)
    table.observe(ids(*range(100, 1_100)), event_time_ms=3_000)
    assert table.contains(ids(5, 100, 7, 1_099, -7, 100)).tolist() == [False, True, False, True, False, True]
    assert table.contains(ids()).shape == (0,)
    assert table.contains(ids(*range(2_000))).sum() == 1_000
    with pytest.raises(ValueError, match="int64"):
        table.contains(np.zeros(2, np.float32))
