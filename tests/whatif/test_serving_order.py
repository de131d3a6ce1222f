"""Look-ups in their order, against a table that is shown and asked one thing at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith.tables.batch import Bag
from monolith.tables.table_step import TableBatch
from monolith.whatif.serving_order import Events, serve_in_order

IDS = st.lists(st.integers(0, 5), max_size=3)
LONGEST_MS = 1000


@dataclass
class Counted:
    """Holds an id from its ``count``-th occurrence on, and remembers what it was called with."""

    count: int
    seen: Counter[int] = field(default_factory=Counter)
    found: list[bool] = field(default_factory=list)
    shown: list[tuple[list[int], list[int]]] = field(default_factory=list)
    clocks: list[tuple[int, int]] = field(default_factory=list)  # and how many look-ups were counted before

    def look_up(self, ids, clock_ms: int):
        self.clocks.append((clock_ms, len(self.found)))
        return np.array([self.seen[i] >= self.count for i in ids.tolist()], np.bool_)

    def served(self, found) -> None:
        self.found += found.tolist()

    def show(self, ids, times_ms, runs) -> None:
        self.seen.update(ids.tolist())
        assert sum(count for _, count in runs) == len(ids)
        self.shown.append((ids.tolist(), times_ms.tolist()))


def batch(rows: list[tuple[list[int], list[int]]]) -> TableBatch:
    """Rows of two features of one table."""
    bags = {
        name: Bag(
            np.array([i for row in rows for i in row[n]], np.int64), np.array([len(r[n]) for r in rows], np.int32)
        )
        for n, name in enumerate("ab")
    }
    return TableBatch(["a", "b"], bags, salted=False)


@st.composite
def steps(draw):
    samples = draw(st.lists(st.tuples(IDS, IDS), max_size=8))
    events = draw(st.lists(st.tuples(st.integers(0, len(samples)), st.tuples(IDS, IDS)), max_size=8))
    before = sorted(limit for limit, _ in events)
    times = np.cumsum(draw(st.lists(st.integers(0, 700), min_size=len(events), max_size=len(events))), dtype=np.int64)
    return samples, [row for _, row in events], before, times


def in_turn(samples, rows, before, count: int) -> list[bool]:
    """Whether each look-up finds its id, one after the other."""
    occurrences = [Counter(i for a, b in samples[:limit] for i in a + b) for limit in before]
    return [seen[i] >= count for row, seen in zip(rows, occurrences, strict=True) for i in row[0] + row[1]]


@given(steps(), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_every_look_up_finds_what_the_samples_before_it_left(step, counts):
    samples, rows, before, times = step
    servers = [Counted(count) for count in counts]
    events = Events(batch(rows), times, np.array(before, np.int64))
    sample_times = 5000 + np.arange(len(samples), dtype=np.int64)
    serve_in_order(events, batch(samples), sample_times, servers, longest_ms=LONGEST_MS)
    times_of = [t for row, t in zip(rows, times.tolist(), strict=True) for _ in row[0] + row[1]]
    for server in servers:
        assert server.found == in_turn(samples, rows, before, server.count)
        ends = [counted for _, counted in server.clocks[1:]] + [len(server.found)]
        for (clock_ms, start), end in zip(server.clocks, ends, strict=False):
            assert all(0 <= time_ms - clock_ms <= LONGEST_MS for time_ms in times_of[start:end])


@given(steps())
def test_samples_are_shown_whole_in_order_and_feature_by_feature(step):
    samples, rows, before, times = step
    server = Counted(1)
    events = Events(batch(rows), times, np.array(before, np.int64))
    serve_in_order(events, batch(samples), np.arange(len(samples)), [server], longest_ms=LONGEST_MS)
    start = 0
    for ids, times_ms in server.shown:
        stop = start if not times_ms else max(times_ms) + 1
        assert times_ms == [n for feature in (0, 1) for n in range(start, stop) for _ in samples[n][feature]]
        assert ids == [i for feature in (0, 1) for n in range(start, stop) for i in samples[n][feature]]
        start = stop
    assert not any(a + b for a, b in samples[start:])


def test_look_ups_of_ids_that_all_tables_hold_take_one_call():
    servers = [Counted(1, Counter({7: 1})), Counted(2, Counter({7: 2}))]
    same = batch([([7], [])] * 20)
    events = Events(same, np.zeros(20, np.int64), np.arange(20))
    serve_in_order(events, same, np.zeros(20, np.int64), servers, longest_ms=0.0)
    assert [len(server.clocks) for server in servers] == [1, 1]
    assert all(sum(server.found) == 20 for server in servers)
