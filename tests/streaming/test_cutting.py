"""Which ready records go into a step: a merge by time, said once more in four lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monolith.events import Record, Shown
from monolith.streaming.cutting import cut_oldest
from monolith.streaming.lanes import Lane, Ready

LANES = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4)


def lane_of(number: int, times: list[int]) -> Lane:
    lane = Lane("features", 0, number, position=0, polled=len(times))
    for offset, time in enumerate(times):
        lane.push(Ready(Record(None, b"v", time, time, number, offset), Shown("r", "i", time, b"")))
    return lane


def merged(lanes: list[list[int]], most: int) -> list[int]:
    """How many of each are among the first ``most``, if always the lane goes on whose next record is oldest."""
    counts = [0] * len(lanes)
    for _ in range(min(most, sum(map(len, lanes)))):
        heads = [(min(of[counts[i]], of[-1]), i) for i, of in enumerate(lanes) if counts[i] < len(of)]
        counts[min(heads)[1]] += 1
    return counts


@given(LANES, st.integers(0, 40))
def test_oldest_records_are_those_of_a_merge_in_which_no_lane_waits_for_a_time_ahead(times, most):
    lanes = [lane_of(number, of) for number, of in enumerate(times)]
    cut = cut_oldest(lanes, most, agree=1)
    assert [cut.counts[lane] for lane in lanes] == merged(times, most)
    assert cut.records == sum(merged(times, most))
