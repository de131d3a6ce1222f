"""The backlog of a lane against a list of its records."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith.errors import EventError
from monolith.events import Record
from monolith.streaming.backlog import Backlog, Ready
from monolith.streaming.sample_block import Pieces, SampleBlock

TAKES = st.tuples(st.just("take"), st.integers(0, 30))
PUSHES = st.tuples(st.sampled_from(["record", "block"]), st.integers(1, 5))


def record_at(offset: int) -> Ready:
    return Ready(Record(None, b"v", 0, 0, 0, offset), EventError("empty", ""))


def block_at(offset: int, size: int) -> SampleBlock:
    numbers = np.arange(offset, offset + size)
    heads = numbers.astype(np.uint8).reshape(-1, 1)
    bag_data = Pieces(np.repeat(numbers, numbers % 3).astype(np.uint8), numbers % 3)
    return SampleBlock(
        0, offset, numbers, numbers.astype(np.float32), heads, bag_data, Pieces(heads.ravel(), numbers * 0)
    )


def rows_of(item: Ready | SampleBlock) -> list[tuple]:
    if isinstance(item, Ready):
        return [("record", item.record.offset)]
    bag_data = [item.bag_data.rows(i, i + 1).data.tolist() for i in range(len(item))]
    columns = zip(item.event_time_ms, item.labels, item.heads[:, 0], bag_data, strict=True)
    return [("block", item.offset + i, *(int(x) for x in row[:3]), row[3]) for i, row in enumerate(columns)]


@given(st.lists(TAKES | PUSHES, max_size=20))
def test_what_is_taken_is_what_was_pushed_and_no_block_follows_on_another(actions):
    backlog, end, waiting = Backlog(), 0, []
    for action, number in actions:
        if action == "take":
            before = [row for row in waiting if row[1] < number]
            assert backlog.count_before(number) == len(before)
            taken = backlog.take(number)
            assert [row for item in taken for row in rows_of(item)] == before
            assert not any(isinstance(a, SampleBlock) and a.precedes(b) for a, b in itertools.pairwise(taken))
            waiting = waiting[len(before) :]
        else:
            item = record_at(end) if action == "record" else block_at(end, number)
            backlog.push([item])
            waiting += rows_of(item)
            end += 1 if action == "record" else number
        assert len(backlog) == len(waiting)
        assert [backlog.offset(i) for i in range(len(waiting))] == [row[1] for row in waiting]
    backlog.take(end)
    assert backlog.bytes == 0


def test_records_of_a_stream_that_was_made_anew_are_taken_behind_those_that_were_polled_before():
    backlog = Backlog()
    for offset in (7, 8, 0, 1):
        backlog.push([record_at(offset)])
    assert [item.record.offset for item in backlog.take(8)] == [7]
    assert [item.record.offset for item in backlog.take(2)] == []
    assert [item.record.offset for item in backlog.take(9)] == [8, 0, 1]
