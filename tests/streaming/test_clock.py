"""A lane's clock against what it promises, said in one line."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith.events import WATERMARK_START
from monolith.streaming.clock import LaneClock, end_of

TIMES = st.lists(st.integers(0, 60), max_size=60)


def model(times: list[int], agree: int) -> int:
    """The highest time that ``agree`` of some ``2 * agree - 1`` records in a row have reached."""
    width = 2 * agree - 1
    windows = [times[max(0, end - width) : end] for end in range(1, len(times) + 1)]
    reached = [time for window in windows for time in window if sum(t >= time for t in window) >= agree]
    return max(reached, default=WATERMARK_START)


@given(TIMES, st.integers(1, 5))
def test_clock_is_that_of_the_model_after_every_record(times, agree):
    clock = LaneClock()
    for count, time in enumerate(times, start=1):
        clock.push(time, agree)
        assert clock.ms == model(times[:count], agree)


@given(TIMES, st.integers(1, 5), st.integers(0, 60))
def test_clock_that_is_kept_and_restored_goes_on_as_it_would_have(times, agree, cut):
    whole = LaneClock()
    for time in times[:cut]:
        whole.push(time, agree)
    part = LaneClock(whole.ms, list(whole.recent))
    for time in times[cut:]:
        whole.push(time, agree)
        part.push(time, agree)
    assert (part.ms, list(part.recent)) == (whole.ms, list(whole.recent))


@given(TIMES, st.integers(1, 5), st.integers(0, 60))
def test_foretold_clock_is_never_ahead_of_the_one_that_comes(times, agree, cut):
    clock = LaneClock()
    for time in times[:cut]:
        clock.push(time, agree)
    foretold = clock.after(times[cut:], agree)
    for time in times[cut:]:
        clock.push(time, agree)
    assert foretold <= clock.ms
    if times == sorted(times):
        assert foretold == clock.ms


@given(st.lists(st.integers(0, 1000), min_size=9, max_size=60), st.data())
def test_fewer_wrong_records_than_agree_never_move_the_clock_beyond_the_right_ones(times, data):
    """At every place in turn, so that two are among any five."""
    right, agree = sorted(times), 3
    wrong = data.draw(st.lists(st.integers(0, 10**15), min_size=len(right) // 3, max_size=len(right) // 3))
    clock, newest = LaneClock(), WATERMARK_START
    for number, time in enumerate(right):
        clock.push(time, agree)
        newest = time
        if number % 3 == 2:
            clock.push(wrong[number // 3], agree)
        assert clock.ms <= newest


AGREES = st.sampled_from([1, 2, 3, 40])  # the last looks at more records than are looked at together
BEGINNINGS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=20)


@given(BEGINNINGS, TIMES, AGREES, st.booleans())
def test_many_records_move_the_clock_as_one_by_one_whatever_agreed_before(beginning, times, agree, in_order):
    together, singly = LaneClock(), LaneClock()
    for time, agreed in beginning:
        together.push(time, agreed)
        singly.push(time, agreed)
    times = sorted(times) if in_order else times
    clocks = together.push_all(np.array(times, np.int64), agree).tolist()
    after = []
    for time in times:
        singly.push(time, agree)
        after.append(singly.ms)
    assert clocks == after
    assert (together.ms, [*together.recent]) == (singly.ms, [*singly.recent])


def test_stream_that_jumps_is_followed_when_enough_records_agree():
    clock = LaneClock()
    for time in range(100):
        clock.push(time, 8)
    assert clock.ms == 92
    for count in range(7):
        clock.push(10**9 + count, 8)
    assert clock.ms == 99  # seven of them alone move it no further than the right ones were
    clock.push(10**9 + 7, 8)
    assert clock.ms == 10**9


def test_stream_that_ended_before_it_had_a_clock_came_as_far_as_its_newest_likely_time():
    assert end_of([], 100) == WATERMARK_START
    assert end_of([7], 100) == 7
    assert end_of([5, 50, 10**9], 100) == 50
    assert end_of([0, 50, 60], 100) == 60
