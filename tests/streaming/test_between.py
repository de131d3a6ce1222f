"""The part of a stream between two times, found as offsets."""

from __future__ import annotations

import pytest

from monolith.errors import UnavailableError
from monolith.streaming import memory
from monolith.streaming.between import Between, offsets_between
from monolith.streaming.bounded import open_bounded
from monolith.streaming.source import open_source


@pytest.fixture
def stream(topics, feature_bytes):
    """Two partitions, a record each 10 ms from 1,000 on, the odd offsets of the first without an event."""
    topic = topics("features", 2)
    for n in range(20):
        good = feature_bytes(f"r{n}", 1000 + n * 10)
        topic.put(0, None, b"none" if n % 2 else good, 1000 + n * 10, 0)
        topic.put(1, None, good, 1000 + n * 10, 0)
    topics("actions", 2)
    return topic


@pytest.mark.parametrize(
    ("between", "first", "last"),
    [
        (Between(), {0: 0, 1: 0}, {0: 20, 1: 20}),
        (Between(1050, None), {0: 5, 1: 5}, {0: 20, 1: 20}),
        (Between(None, 1050), {0: 0, 1: 0}, {0: 5, 1: 5}),
        (Between(1051, 1100), {0: 5, 1: 6}, {0: 9, 1: 10}),
        (Between(0, 1), {0: 0, 1: 0}, {0: 0, 1: 0}),
        (Between(5000, None), {0: 19, 1: 20}, {0: 20, 1: 20}),
    ],
)
def test_offsets_are_those_of_the_times(stream, between, first, last):
    """A record without an event may stand on either side of a bound, next to records that are on the right one."""
    source = open_source("memory://features")
    begins, ends = offsets_between(source, between)
    assert source.position() == begins
    for found, expected in ((begins, first), (ends, last)):
        assert found[1] == expected[1]
        assert abs(found[0] - expected[0]) <= 1


def test_bounded_reading_takes_what_is_between_and_nothing_else(stream, make_job, drain):
    with open_bounded(make_job(input={"max_reject_share": 1.0}), between=Between(1050, 1100)) as reader:
        steps = drain(reader)
        positions = reader.progress().positions["features"]
    times = sorted(time for step in steps for time in step.batch.event_time_ms.tolist())
    assert set(times) == {1050, 1060, 1070, 1080, 1090}
    assert positions[1] == 10


def test_stream_that_does_not_answer_is_named(tmp_path, monkeypatch):
    from monolith.streaming import between

    monkeypatch.setattr(between, "ANSWER_S", 0.2)
    source = open_source(f"log://{tmp_path}/none", wait=True)
    with pytest.raises(UnavailableError, match="does not answer: no log is there yet"):
        offsets_between(source, Between(1, 2))
    memory.forget("none")
