"""A source that is read ahead stands, gives and fails as if it were not; only the waiting is somewhere else."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith.errors import DataLossError
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import Journal
from monolith.streaming.read_ahead import ReadAhead
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader
from monolith.tables.batch_bytes import to_bytes

PARTS = st.sampled_from([[0], [1], [0, 1]])
ACTS = st.one_of(
    st.tuples(st.just("put"), PARTS),
    st.tuples(st.just("begin"), PARTS),
    st.tuples(st.just("read"), PARTS),
    st.tuples(st.just("seek"), st.tuples(st.integers(0, 1), st.floats(0, 1))),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTS, max_size=25), st.integers(1, 3))
def test_every_partition_gives_its_records_in_order_from_where_it_stands(topics, feature_bytes, acts, most):
    topic, put = topics("features", 2), 0
    ahead = _ahead()
    stands = {0: 0, 1: 0}
    for act, what in [*acts, *[("read", [0, 1])] * 200]:
        if act == "put":
            for partition in what:
                topic.put(partition, None, feature_bytes(f"r{put}", put), put, put)
                put += 1
        elif act == "begin":
            ahead.begin(most, what)
        elif act == "seek":
            stands[what[0]] = round(what[1] * topic.end(what[0]))
            ahead.seek({what[0]: stands[what[0]]})
        else:
            for record in ahead.read(most, 0.0, what):
                assert record.offset == stands[record.partition]
                stands[record.partition] += 1
        assert ahead.position() == stands
        assert ahead.lag() == sum(topic.end(p) - stands[p] for p in stands)
    assert stands == {0: topic.end(0), 1: topic.end(1)}
    ahead.close()


def _ahead() -> ReadAhead:
    source = open_source("memory://features")
    return ReadAhead(source, lambda most, timeout_s, parts: source.poll(most, timeout_s, parts))


def test_thread_reads_while_the_owner_does_something_else(topics, feature_bytes):
    topics("features").put(0, None, feature_bytes("r", 1), 1, 1)
    source, read = open_source("memory://features"), threading.Event()

    def poll(most, timeout_s, partitions):
        records = source.poll(most, timeout_s, partitions)
        read.set()
        return records

    ahead = ReadAhead(source, poll)
    ahead.begin(10, [0])
    assert read.wait(10.0)
    assert [record.offset for record in ahead.read(10, 0.0, [0])] == [0]
    ahead.close()


def test_loss_that_the_thread_meets_is_raised_by_the_next_read(topics, feature_bytes):
    topic = topics("features")
    for number in range(4):
        topic.put(0, None, feature_bytes("r", number), number, number)
    topic.drop(0, 2)
    ahead = _ahead()
    ahead.seek({0: 0})
    ahead.begin(10, [0])
    assert ahead.position() == {0: 0}
    with pytest.raises(DataLossError):
        ahead.read(10, 0.0, [0])
    ahead.seek({0: 2})
    assert [record.offset for record in ahead.read(10, 0.0, [0])] == [2, 3]
    ahead.begin(10, [0])
    ahead.close()


@pytest.mark.parametrize("restored_after", [1, 3])
def test_run_that_reads_ahead_is_repeated_by_one_that_does_not(
    streams, make_job, tmp_path, clock, restored_after, drain
):
    """From the beginning, and from a snapshot in the middle, by its journal."""
    both = streams(2)
    for number in range(60):
        both.show(f"r{number}", 1000.0 + number, number % 2)
        if number % 3 == 0:
            both.act(f"r{number}", 1001.0 + number, number % 2)
    job = make_job(input={"follow": False}, train={"step_records": 7})

    def reader_of(*, ahead: bool) -> StepReader:
        inlets = open_inlets(job)
        for inlet in inlets if ahead else []:
            inlet.read_ahead()
        return StepReader(job, inlets, Journal(tmp_path / "journal"), DeadLetters(None), clock=clock)

    def seen(steps):
        return [(step.number, to_bytes(step.batch), [*step.keys], step.watermark_ms, step.digest) for step in steps]

    with reader_of(ahead=True) as reader:
        steps = [reader.next(10.0) for _ in range(restored_after)]
        state = reader.state()
        steps += drain(reader)
    assert sum(len(step.batch) for step in steps) == 60
    for ahead in (False, True):
        with reader_of(ahead=ahead) as reader:
            assert seen(drain(reader)) == seen(steps)
            reader.restore(state)
            assert seen(drain(reader)) == seen(steps[restored_after:])
