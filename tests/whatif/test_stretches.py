from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith.tables.batch import TableBatch
from monolith.tables.features import Bag
from monolith.whatif.stretches import Events, stretches

IDS = st.lists(st.integers(0, 5), max_size=3)


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


@given(steps())
def test_every_look_up_comes_after_the_samples_before_it_and_no_other_of_its_id(step):
    samples, rows, before, times = step
    events = Events(batch(rows), times, np.array(before, np.int64))
    cut = list(stretches(events, batch(samples), 1000 + np.arange(len(samples), dtype=np.int64), 1000.0))
    wanted = [(i, limit, t) for row, limit, t in zip(rows, before, times, strict=True) for i in row[0] + row[1]]
    looked_up, shown = [], []
    for stretch in cut:
        for key in stretch.looked_up.tolist():
            _, limit, time_ms = wanted[len(looked_up)]
            so_far = [i for ids, _ in shown for i in ids]
            assert (key in so_far) == any(key in a + b for a, b in samples[:limit])
            assert 0 <= time_ms - stretch.clock_ms <= 1000
            looked_up.append(key)
        shown.append((stretch.ids.tolist(), stretch.times_ms.tolist()))
        covered = [n for n in range(len(samples)) if 1000 + n in stretch.times_ms]
        assert shown[-1][0] == [i for feature in (0, 1) for n in covered for i in samples[n][feature]]
    assert looked_up == [i for i, _, _ in wanted]
    pairs = [pair for ids, of in shown for pair in zip(ids, of, strict=True)]
    assert sorted(pairs) == sorted((i, 1000 + n) for n, (a, b) in enumerate(samples) for i in a + b)


def test_a_step_without_repeats_is_one_stretch():
    events = Events(batch([([n], []) for n in range(5)]), np.zeros(5, np.int64), np.arange(5))
    samples = batch([([n], []) for n in range(5)])
    assert len(list(stretches(events, samples, np.zeros(5, np.int64), 0.0))) == 1
