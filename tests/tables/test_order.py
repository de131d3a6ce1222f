"""The order in which things happen to come leaves no trace: not buckets, not ids of one call, not how calls are split.

What semantics do allow to matter is kept: the order of one id's own occurrences (its gradients are added in it, its
occurrences are counted in it), and which ids shared a call with a clock that moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith.tables import Table, TableConfig, TableFile, admission, expiry, optimizers
from monolith.tables.buckets import ALL_BUCKETS
from monolith.tables.saved import SavedTable

StateOf = Callable[[Table], bytes]
RULES: list[dict[str, Any]] = [
    {"dim": 1, "optimizer": optimizers.SGD()},
    {"dim": 5, "optimizer": optimizers.Adam(), "admission": admission.MinCount(2), "expiry": expiry.Idle(ttl_s=2)},
    {
        "dim": 4,
        "optimizer": optimizers.RowWiseAdagrad(),
        "admission": admission.Probability(0.4),
        "storage": "bfloat16",
        "expiry": expiry.Idle(ttl_s=1),
    },
    {
        "dim": 3,
        "optimizer": optimizers.FTRL(),
        "admission": admission.MinCount(3, half_life_s=1.0),
        "storage": "float16",
    },
]


def config(rule: dict[str, Any]) -> TableConfig:
    return TableConfig(name="t", seed=3, **rule)


def lived_in(rule: dict[str, Any], steps: int = 8) -> Table:
    """Rows, counters and tombstones in many buckets, several sequences closed."""
    table = Table(config(rule))
    train(table, 0, steps)
    return table


def train(table: Table, first: int, steps: int) -> list[tuple[bytes, bytes, bytes]]:
    """Some steps; returns the deltas, each since the cut before the last."""
    deltas = []
    for step in range(first, first + steps):
        rng = np.random.default_rng(step)
        ids = rng.zipf(1.3, 300) % 2000
        table.observe(ids, event_time_ms=step * 400)
        table.apply_gradients(ids, rng.standard_normal((300, table.dim)).astype(np.float32))
        table.sweep(300)
        table.cut()
        delta = table.delta(max(0, table.sequence - 3))
        deltas.append((delta.ids.tobytes(), delta.values.tobytes(), delta.removed.tobytes()))
    return deltas


class Shuffled(TableFile):
    """A table file that hands out its buckets in another order."""

    def __init__(self, folder: Path, order: list[int]) -> None:
        super().__init__(folder)
        self._order = order

    def buckets(self, numbers: Sequence[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        return super().buckets([number for number in self._order if number in numbers])


def restored(folder: Path, order: list[int]) -> Table:
    """`Table.open`, but with the buckets imported in ``order``."""
    with Shuffled(folder, order) as file:
        table = Table(file.config)
        SavedTable([file], ALL_BUCKETS).restore(table)
    return table


@pytest.mark.parametrize("rule", RULES)
def test_buckets_may_be_imported_in_any_order(rule, tmp_path, state_of: StateOf):
    table = lived_in(rule)
    before = table.save(tmp_path).read_bytes()
    orders = [list(range(1023, -1, -1)), np.random.default_rng(1).permutation(1024).tolist()]
    others = [Table.open(tmp_path), *(restored(tmp_path, order) for order in orders)]
    assert [state_of(other) for other in others] == [before] * 3
    images = {(*map(bytes, (d.ids, d.values, d.removed)),) for d in (each.delta(0) for each in [table, *others])}
    assert len(images) == 1
    since = table.sequence - 3
    narrow = {(*map(bytes, (d.ids, d.values, d.removed)),) for d in (each.delta(since) for each in [table, *others])}
    assert len(narrow) == 1
    deltas = train(table, 8, 8)
    assert [train(other, 8, 8) for other in others] == [deltas] * 3
    assert [state_of(other) for other in others] == [state_of(table)] * 3


@pytest.mark.parametrize("rule", RULES)
def test_rows_of_another_history_lie_elsewhere_and_read_the_same(rule, tmp_path, state_of: StateOf):
    """One table was once ten times as large, so its rows lie in places that others left; the other was opened anew."""
    crowded = Table(config(rule | {"expiry": expiry.Idle(ttl_s=1)}))
    for _ in range(3):  # the most that a rule here asks for
        crowded.observe(np.arange(10**6, 10**6 + 20_000), event_time_ms=0)
    crowded.advance(10_000)
    crowded.sweep()
    crowded.cut()
    crowded.save(tmp_path)
    opened = Table.open(tmp_path)
    assert crowded.stats().free_rows > 1000
    assert opened.stats().free_rows == 0
    assert train(crowded, 30, 8) == train(opened, 30, 8)
    assert state_of(crowded) == state_of(opened)


BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4000)), min_size=1, max_size=25), min_size=1, max_size=4
)


@given(batches=BATCHES, rule=st.sampled_from(RULES), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_ids_of_one_call_may_come_in_any_order(batches, rule, seed, state_of: StateOf):
    """Each id's own occurrences keep theirs."""
    rng = np.random.default_rng(seed)
    one, other = Table(config(rule)), Table(config(rule))
    for step, batch in enumerate(batches):
        ids = np.array([i for i, _ in batch])
        times = np.array([t + step * 1500 for _, t in batch])
        grads = rng.standard_normal((len(ids), one.dim)).astype(np.float32)
        order = interleaved(ids, rng)
        for table, index in ((one, np.arange(len(ids))), (other, order)):
            table.observe(ids[index], event_time_ms=times[index])
            table.apply_gradients(ids[index], grads[index], event_time_ms=times[index])
            table.sweep(512)
            table.cut()
        mine, theirs = one.delta(one.sequence - 2), other.delta(one.sequence - 2)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(parts(mine), parts(theirs), strict=True))
    assert state_of(one) == state_of(other)


@given(batches=BATCHES, rule=st.sampled_from(RULES), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_call_may_come_in_parts(batches, rule, seed, state_of: StateOf):
    """Where the clock stands where the whole call would have put it."""
    rng = np.random.default_rng(seed)
    whole, split = Table(config(rule)), Table(config(rule))
    for batch in batches:
        ids, times = (np.array(column) for column in zip(*batch, strict=True))
        whole.observe(ids, event_time_ms=times)
        split.advance(int(times.max()))
        cuts = np.sort(rng.integers(0, len(ids) + 1, 3))
        for part in np.split(np.arange(len(ids)), cuts):
            split.observe(ids[part], event_time_ms=times[part])
    assert state_of(whole) == state_of(split)


def interleaved(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of positions in which those of each id still ascend."""
    places = rng.permutation(len(ids))
    order = np.empty(len(ids), np.int64)
    for i in np.unique(ids):
        mine = np.flatnonzero(ids == i)
        order[np.sort(places[mine])] = mine
    return order


def parts(delta: Any) -> tuple[np.ndarray, ...]:
    return delta.ids, delta.values, delta.removed


def test_the_orders_drawn_here_do_differ():
    """Else the tests above would say nothing: ids of several buckets, in orders that are not the first."""
    ids = np.array([1, 2, 1, 3, 2, 4, 1])
    orders = {tuple(interleaved(ids, np.random.default_rng(seed))) for seed in range(50)}
    assert len(orders) > 20
    for order in orders:
        assert all(np.all(np.diff([k for k in order if ids[k] == i]) > 0) for i in set(ids.tolist()))
    assert len(np.unique(reference.bucket(np.arange(12)))) > 6
