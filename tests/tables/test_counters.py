"""Counters in bounded memory: what is missing from an id's count, against counting everything."""

import tempfile

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.tables import FeatureRules, Table, TableConfig, TableFile, admission

_POOL = np.arange(60_000)
IDS = _POOL[reference.bucket(_POOL) == 9][:24]
NEVER_REACHED = 2**31


def saved_counts(table: Table) -> dict[int, tuple[int, int]]:
    """Id -> count and the time that it is of."""
    with tempfile.TemporaryDirectory() as folder:
        table.save(folder)
        with TableFile(folder) as file:
            bucket = file.bucket(9)
    counts = zip(bucket["counts"].tolist(), bucket["counter_last_ms"].tolist(), strict=True)
    return dict(zip(bucket["counter_ids"].tolist(), counts, strict=True))


def left(counter: tuple[int, int], t: int, half_life_ms: int | None) -> int:
    count, last = counter
    return count >> ((t - last) // half_life_ms) if half_life_ms and t > last else count


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(st.tuples(st.integers(0, 23), st.integers(0, 40)), min_size=1, max_size=300),
    bound=st.integers(1, 8),
    half_life_ms=st.sampled_from([None, 30, 1000]),
)
def test_count_misses_at_most_its_share_and_is_never_too_high(stream, bound, half_life_ms):
    """Of n occurrences in a bucket of k counters at most n / (k + 1) are missing."""
    half_life_s = half_life_ms and half_life_ms / 1000
    rule = admission.MinCount(NEVER_REACHED, half_life_s=half_life_s, max_counters=bound * 1024)
    table, exact, t = Table(TableConfig(name="t", dim=1, admission=rule)), {}, 0
    for place, pause in stream:
        t += pause
        i = int(IDS[place])
        table.observe(IDS[place : place + 1], event_time_ms=t)
        exact[i] = (left(exact.get(i, (0, t)), t, half_life_ms) + 1, t)
    kept, decrements = saved_counts(table), table.stats().counter_decrements
    assert len(kept) == table.stats().counters <= bound
    assert decrements <= len(stream) // (bound + 1)
    for i, counter in exact.items():
        missing = left(counter, t, half_life_ms) - left(kept.get(i, (0, t)), t, half_life_ms)
        assert 0 <= missing <= decrements


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), min_size=1, max_size=200),
    asked=st.integers(100, 300),
)
def test_count_is_never_too_high_however_late_events_come(stream, asked):
    rule = admission.MinCount(NEVER_REACHED, half_life_s=0.01, max_counters=3 * 1024)
    table, exact = Table(TableConfig(name="t", dim=1, admission=rule)), {}
    for place, t in stream:
        i = int(IDS[place])
        table.observe(IDS[place : place + 1], event_time_ms=t)
        count, last = exact.get(i, (0, t))
        exact[i] = (left((count, last), t, 10) + 1, max(last, t))
    for i, (count, last) in saved_counts(table).items():
        assert last <= exact[i][1]
        assert left((count, last), asked, 10) <= left(exact[i], asked, 10)


def test_frequent_ids_are_found_in_any_crowd():
    """An id of a fifth of the occurrences is admitted although 40,000 others pass through 4 counters a bucket."""
    rng = np.random.default_rng(0)
    frequent = IDS[:1]
    crowd = rng.permutation(_POOL[reference.bucket(_POOL) == 9])
    table = Table(TableConfig(name="t", dim=1, admission=admission.MinCount(3, max_counters=4 * 1024)))
    for i, one in enumerate(crowd):
        table.observe(np.array([one]))
        if i % 2 == 0:
            table.observe(frequent)
    assert frequent[0] in table.rows()[0]
    assert table.stats().counter_decrements > 0


def test_saved_counters_go_on_the_same(tmp_path, state_of):
    rule = admission.MinCount(5, half_life_s=0.5, max_counters=3 * 1024)
    straight, winding = (Table(TableConfig(name="t", dim=1, admission=rule)) for _ in range(2))
    rng = np.random.default_rng(1)
    for t in range(40):
        batch = rng.choice(IDS, 8)
        straight.observe(batch, event_time_ms=40 * t)
        winding.observe(batch, event_time_ms=40 * t)
        winding.save(tmp_path)
        winding = Table.open(tmp_path)
    assert straight.stats().counter_decrements == winding.stats().counter_decrements > 0
    assert state_of(straight) == state_of(winding)


@pytest.mark.parametrize("rule", [admission.Always(), admission.Never()])
def test_counters_outlive_a_run_under_a_rule_that_does_not_count(tmp_path, rule):
    """A table that is frozen for a while, or opened wide by mistake, forgets nothing."""
    counting = TableConfig(name="t", dim=1, admission=admission.MinCount(3))
    table = Table(counting)
    table.observe(np.array([5, 5, 6]), event_time_ms=70)
    table.save(tmp_path)
    between = Table.open(tmp_path, TableConfig(name="t", dim=1, admission=rule))
    assert between.stats().counters == 2
    between.observe(np.array([6]), event_time_ms=80)  # gets a row, or stays as often counted as it was
    between.save(tmp_path)
    back = Table.open(tmp_path, counting)
    back.observe(np.array([5]), event_time_ms=90)  # its third
    assert back.rows()[0].tolist() == ([5, 6] if isinstance(rule, admission.Always) else [5])
    assert back.stats().counters == (0 if isinstance(rule, admission.Always) else 1)


def test_counters_of_a_feature_that_is_no_more_meet_those_of_the_table(tmp_path):
    """An id that both counted keeps the larger count, and the table that is saved can be opened."""
    apart = TableConfig(
        name="t",
        dim=1,
        features=["user", "tag"],
        admission=admission.MinCount(4),
        per_feature={"tag": FeatureRules(admission=admission.MinCount(9))},
    )
    table = Table(apart)
    table.observe(np.array([5, 6, 6, 6]), event_time_ms=0, feature="user")
    table.observe(np.array([5, 5, 5, 6]), event_time_ms=0, feature="tag")
    table.save(tmp_path)
    table = Table.open(tmp_path, TableConfig(name="t", dim=1, features=["user"], admission=admission.MinCount(4)))
    assert table.stats().counters == 2
    table.save(tmp_path)
    table = Table.open(tmp_path)
    table.observe(np.array([5, 6]), event_time_ms=0)
    assert table.rows()[0].tolist() == [5, 6]
    assert table.stats().counters == 0
