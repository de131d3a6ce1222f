"""Reading ahead in a thread: the same steps and states, and errors where polling would have raised them."""

from __future__ import annotations

import threading

import pytest
from batches import told

from monolith.errors import DataLossError
from monolith.streaming.memory import MemorySource
from monolith.streaming.read_ahead import ReadAhead


@pytest.fixture
def polled_by(monkeypatch) -> list[str]:
    """The threads that polled, in order."""
    names: list[str] = []
    poll = MemorySource.poll

    def noted(self, *arguments):
        names.append(threading.current_thread().name)
        return poll(self, *arguments)

    monkeypatch.setattr(MemorySource, "poll", noted)
    return names


def backlog(streams, rounds: int = 100):
    for i in range(rounds):
        streams.show(f"r{i}", 10 + i, partition=i % 2, user=i)
        if i % 3:
            streams.act(f"r{i}", 10 + i, partition=i % 2)


def test_backlog_is_read_in_a_thread_to_the_steps_and_states_of_reading_in_turn(
    streams, open_reader, make_job, monkeypatch, polled_by, drain
):
    backlog(streams(2))
    job = make_job(input={"follow": False}, train={"step_records": 8})

    def run(folder: str) -> list:
        reader = open_reader(job, folder=folder)
        seen = []
        while not seen or not seen[-1][0][-2]:
            step = reader.next(10.0)
            seen.append((told(step), reader.state(), reader.progress().positions))
        return seen

    ahead = run("ahead")
    assert any(name.startswith("read-ahead") for name in polled_by)
    polled_by.clear()
    monkeypatch.setattr(ReadAhead, "begin", lambda _: None)
    assert run("in turn") == ahead
    assert not any(name.startswith("read-ahead") for name in polled_by)


def test_step_that_is_not_full_starts_no_thread(streams, open_reader, make_job, polled_by):
    streams = streams()
    streams.show("a", 1)
    reader = open_reader(make_job(train={"step_records": 8}))
    assert reader.next(0.0).records == 1
    reader.next(0.0)
    assert not any(name.startswith("read-ahead") for name in polled_by)


def test_loss_that_the_thread_meets_is_raised_by_the_next_step(streams, open_reader, make_job):
    streams = streams()
    for i in range(40):
        streams.show(f"r{i}", 10 + i)
    reader = open_reader(make_job(train={"step_records": 8}))
    reader.next(0.0)
    reader._ahead.forget()
    streams.features.drop(0, 40)
    reader._ahead.begin()
    assert reader.progress().step == 1  # who looks at the job meanwhile is not told
    assert reader.state()
    with pytest.raises(DataLossError, match="is gone"):
        reader.next(0.0)


def test_restored_reader_forgets_what_was_read_ahead(streams, open_reader, make_job):
    backlog(streams(2))
    reader = open_reader(make_job(train={"step_records": 8}))
    states, steps = [], []
    for _ in range(4):
        steps.append(told(reader.next(0.0)))
        states.append(reader.state())
    reader.restore(states[0])
    assert [told(reader.next(10.0)) for _ in range(3)] == steps[1:]
    assert reader.state() == states[-1]


def test_closing_ends_the_thread(streams, open_reader, make_job):
    backlog(streams(2))
    reader = open_reader(make_job(train={"step_records": 8}))
    reader.next(0.0)
    reader.close()
    reader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
