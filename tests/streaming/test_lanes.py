"""What was polled of a partition and is not in a step yet."""

from __future__ import annotations

from monolith.errors import EventError
from monolith.events import Record
from monolith.streaming.lanes import Lane, Ready


def item(offset: int) -> Ready:
    return Ready(Record(None, b"v", 0, 0, 0, offset), EventError("empty", ""))


def test_steps_stand_in_a_stream_that_was_made_anew_where_it_begins_and_not_where_the_old_one_ended():
    """Else a restart would ask for an offset that the new stream does not have yet, and train its start again."""
    lane = Lane("samples", 0, 0, position=100, polled=100)
    for offset in range(3):
        lane.push(item(offset))
    lane.polled = 3
    assert lane.end_after(0) == 0
    assert [ready.record.offset for ready in lane.take(lane.end_after(2))] == [0, 1]
    assert lane.position == 2
    assert [ready.record.offset for ready in lane.take(lane.end_after(1))] == [2]
    assert lane.position == 3


def test_offsets_that_are_left_out_are_passed_over():
    lane = Lane("samples", 0, 0, position=5, polled=5)
    lane.push(item(9))
    lane.polled = 12
    assert len(lane.take(lane.end_after(1))) == 1
    assert lane.position == 12
