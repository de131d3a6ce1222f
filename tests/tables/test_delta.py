"""Sequences, deltas, tombstones, and replicas that follow them."""

import numpy as np
import pytest

from monolith.errors import GapError, InputError
from monolith.tables import Delta, Table, expiry, optimizers

ONE_SECOND = expiry.Idle(ttl_s=1.0)


def test_delta_holds_what_was_written_since(make_table, ids):
    table = make_table()
    table.observe(ids(3, 1, 2))
    assert table.cut() == 1
    table.observe(ids(1, 2, 3, 4))  # old rows are only seen
    table.apply_gradients(ids(2), np.ones((1, 4), np.float32))
    assert table.cut() == 2
    delta = table.delta(1)
    assert (delta.base_sequence, delta.sequence) == (1, 2)
    assert delta.ids.tolist() == [2, 4]
    assert delta.values.tobytes() == table.lookup(ids(2, 4)).tobytes()
    assert delta.removed.tolist() == []


def test_delta_ids_ascend_as_signed_integers(make_table, ids):
    table = make_table()
    table.observe(ids(5, -1, 2**63 - 1, -(2**63), 0))
    table.cut()
    assert table.delta(0).ids.tolist() == [-(2**63), -1, 0, 5, 2**63 - 1]


def test_image_has_no_tombstones(make_table, ids):
    table = make_table(expiry=ONE_SECOND)
    table.observe(ids(1), event_time_ms=1000)
    table.observe(ids(2), event_time_ms=3000)
    table.cut()
    table.observe(ids(3), event_time_ms=3500)
    table.sweep(1024)
    table.cut()
    assert table.delta(1).removed.tolist() == [1]
    assert (table.delta(0).ids.tolist(), table.delta(0).removed.tolist()) == ([2, 3], [])


def test_expired_rows_leave_a_replica_with_the_sweep(make_table, ids):
    table = make_table(expiry=ONE_SECOND)
    table.observe(ids(1), event_time_ms=1000)
    table.observe(ids(2), event_time_ms=3000)
    table.cut()
    assert (table.rows()[0].tolist(), table.delta(0).ids.tolist()) == ([2], [1, 2])
    table.sweep(1024)
    table.cut()
    assert (table.delta(0).ids.tolist(), table.delta(1).removed.tolist()) == ([2], [1])


def test_delta_tells_which_ids_were_removed(make_table, ids):
    table = make_table(expiry=ONE_SECOND)
    table.observe(ids(2, 1), event_time_ms=0)
    table.cut()
    table.observe(ids(3), event_time_ms=5000)
    table.sweep(1024)
    table.cut()
    assert (table.delta(1).ids.tolist(), table.delta(1).removed.tolist()) == ([3], [1, 2])


def test_id_that_came_back_is_no_longer_removed(make_table, ids):
    table = make_table(expiry=ONE_SECOND)
    table.observe(ids(1, 2), event_time_ms=0)
    table.cut()
    table.advance(5000)
    table.sweep(1024)
    table.cut()
    table.observe(ids(1), event_time_ms=5000)
    table.cut()
    assert (table.delta(1).ids.tolist(), table.delta(1).removed.tolist()) == ([1], [2])
    assert (table.delta(2).ids.tolist(), table.delta(2).removed.tolist()) == ([1], [])


@pytest.mark.parametrize("times", [1, 300])
def test_wider_deltas_agree_with_narrow_ones(make_table, times):
    """Narrow deltas come from a list of touched rows (given up when it is long), wide ones from a look at all rows."""
    table, rng = make_table(expiry=ONE_SECOND), np.random.default_rng(0)
    narrow, wide = make_table(), make_table()
    for round_ in range(12):
        table.observe(rng.integers(0, 60 * times, 40 * times), event_time_ms=round_ * 400)
        batch = rng.integers(0, 60 * times, 20 * times)
        table.apply_gradients(batch, rng.standard_normal((len(batch), 4)).astype(np.float32))
        table.sweep(200)
        since = table.cut() - 1
        narrow.apply(table.delta(since))
        if round_ % 4 == 3:
            wide.apply(table.delta(wide.sequence - 1))
            assert narrow.rows()[0].tolist() == wide.rows()[0].tolist()
            assert narrow.rows()[1].tobytes() == wide.rows()[1].tobytes()


def test_replica_follows_from_an_image(make_table, ids):
    table, replica = make_table(expiry=ONE_SECOND), make_table()
    replica.observe(ids(99))
    table.observe(ids(1, 2), event_time_ms=0)
    table.cut()
    replica.apply(table.delta(0))
    assert replica.rows()[0].tolist() == [1, 2]
    assert replica.sequence == 2
    table.observe(ids(2, 3), event_time_ms=5000)
    table.sweep(1024)
    table.cut()
    replica.apply(table.delta(1))
    assert replica.rows()[0].tolist() == [2, 3]
    assert replica.lookup(ids(2, 3)).tobytes() == table.lookup(ids(2, 3)).tobytes()


def test_replica_hands_deltas_on(make_table, ids):
    table, first, second = make_table(expiry=ONE_SECOND), make_table(), make_table()
    for t in (0, 500, 5000):
        table.observe(ids(t, t + 1), event_time_ms=t)
        table.sweep(1024)
        since = table.cut() - 1
        first.apply(table.delta(since))
        second.apply(first.delta(second.sequence - 1))
        assert second.rows()[0].tolist() == table.rows()[0].tolist()


def test_delta_that_is_held_changes_nothing(make_table, ids, state_of):
    table, replica = make_table(), make_table()
    for i in (1, 2, 3):
        table.observe(ids(i))
        replica.apply(table.delta(table.cut() - 1))
    before = state_of(replica)
    replica.apply(table.delta(1))
    assert state_of(replica) == before


def test_delta_with_a_gap_is_refused(make_table, ids, state_of):
    table, replica = make_table(), make_table()
    for i in (1, 2, 3):
        table.observe(ids(i))
        table.cut()
    before = state_of(replica)
    with pytest.raises(GapError, match="holds sequence 0, the delta follows on 2"):
        replica.apply(table.delta(2))
    assert state_of(replica) == before


def test_image_takes_a_replica_back(make_table, ids):
    ahead, replica = make_table(), make_table()
    ahead.observe(ids(1, 2, 3))
    for _ in range(9):
        ahead.cut()
    replica.apply(ahead.delta(0))
    other = make_table()
    other.observe(ids(7))
    other.cut()
    replica.apply(other.delta(0))
    assert (replica.sequence, replica.rows()[0].tolist()) == (2, [7])


def test_replica_keeps_only_values(make_table, ids):
    table, replica = make_table(optimizer=optimizers.Adagrad()), make_table(optimizer=optimizers.Adagrad())
    table.observe(ids(1))
    table.apply_gradients(ids(1), np.full((1, 4), 3.0, np.float32))
    table.cut()
    replica.apply(table.delta(0))
    assert replica.lookup(ids(1)).tobytes() == table.lookup(ids(1)).tobytes()
    for each in (table, replica):
        each.apply_gradients(ids(1), np.full((1, 4), 3.0, np.float32))
    assert replica.lookup(ids(1)).tobytes() != table.lookup(ids(1)).tobytes()


def test_tombstones_are_kept_for_4096_sequences(make_table, ids):
    table = make_table(expiry=ONE_SECOND)
    table.observe(ids(1), event_time_ms=0)
    table.cut()
    table.advance(5000)
    table.sweep(1024)
    removed_in = table.cut()
    while table.sequence <= 4096 + removed_in - 1:
        table.cut()
    assert table.delta(removed_in - 1).removed.tolist() == [1]
    assert table.stats().tombstones == 1
    table.cut()
    assert table.stats().tombstones == 0
    with pytest.raises(GapError, match="known only from 2 on"):
        table.delta(removed_in - 1)
    assert table.delta(removed_in).removed.tolist() == []
    assert table.delta(0).ids.tolist() == []


def test_image_receiver_knows_no_older_tombstones(make_table, ids):
    table, replica = make_table(), make_table()
    table.observe(ids(1))
    for _ in range(5):
        table.cut()
    replica.apply(table.delta(0))
    with pytest.raises(GapError, match="known only from 5 on"):
        replica.delta(3)


@pytest.mark.parametrize("since", [-1, 2, 2**40])
def test_since_must_have_been_closed(make_table, since):
    table = make_table()
    table.cut()
    with pytest.raises(InputError, match="since"):
        table.delta(since)


@pytest.mark.parametrize(
    "broken",
    [
        {"values": np.zeros((2, 3), np.float32)},
        {"values": np.zeros((1, 4), np.float32)},
        {"ids": np.zeros(2, np.int32)},
        {"removed": np.zeros((1, 1), np.int64)},
        {"sequence": -1},
        {"base_sequence": 2},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_delta_that_does_not_fit_changes_nothing(make_table, ids, state_of, broken):
    table = make_table()
    before = state_of(table)
    fields = {"base_sequence": 0, "sequence": 1, "ids": ids(1, 2), "removed": ids(), "values": np.zeros((2, 4), "f4")}
    with pytest.raises(InputError):
        table.apply(Delta(**(fields | broken)))
    assert state_of(table) == before


def test_delta_survives_save_and_open(make_table, ids, tmp_path):
    table = make_table(expiry=ONE_SECOND)
    table.observe(ids(1, 2), event_time_ms=0)
    table.cut()
    table.observe(ids(2, 3), event_time_ms=900)
    table.cut()
    table.observe(ids(4), event_time_ms=1500)
    table.sweep(1024)
    table.save(tmp_path)
    opened = Table.open(tmp_path)
    for since in (0, 1, 2):
        ours, theirs = opened.delta(since), table.delta(since)
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.removed.tolist() == theirs.removed.tolist()
        assert ours.values.tobytes() == theirs.values.tobytes()


def test_image_of_a_table_that_was_never_cut_is_refused_if_it_holds_rows(make_table, ids):
    """It would leave the replica empty, without a word: rows of sequence 0 are rows that went."""
    table, replica = make_table(), make_table()
    replica.apply(table.delta(0))
    assert (len(replica), replica.sequence) == (0, 1)
    table.observe(ids(1, 2))
    replica.observe(ids(7))
    with pytest.raises(InputError, match=r"holds 2 rows of no closed sequence: cut\(\) the table"):
        replica.apply(table.delta(0))
    assert len(replica) == 1
    table.cut()
    replica.apply(table.delta(0))
    assert replica.rows()[0].tolist() == [1, 2]
