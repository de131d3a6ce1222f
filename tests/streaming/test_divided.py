"""Several processes that read one job's streams, each its partitions, make what one process makes of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from part_readers import KeptOnDisk, LocalReaders

from monolith.errors import ConfigError
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import Journal
from monolith.streaming.reader_state import whole_state
from monolith.streaming.steps import StepReader
from monolith.tables.batch_bytes import to_bytes

PARTITIONS = 4
ROUNDS = 80


@pytest.fixture
def job(make_job):
    return make_job(
        input={"co_partitioned": True, "max_out_of_order_s": 2.0, "jump_records": 2, "max_jump_s": 60.0},
        join={"late_positives": "dead_letter", "negative_rate": 0.7},
        train={"step_records": 9, "publish_every_s": 1.0},
    )


@pytest.fixture
def reader_of(tmp_path, clock):
    """Opens a reader on a journal: of one process (0), or of so many parts."""
    held = []

    def make(job, parts: int, folder: str = "journal", **more) -> StepReader:
        while held:
            held.pop().close()
        journal, letters = Journal(tmp_path / folder), DeadLetters(None)
        readers = LocalReaders(job, parts, clock) if parts else None
        inlets = open_inlets(job) if readers is None else readers.inlets
        reader = StepReader(job, inlets, journal, letters, clock=clock, readers=readers, **more)
        reader.readers = readers
        held.append(reader)
        return reader

    yield make
    while held:
        held.pop().close()


def traffic(streams, rng: random.Random, number: int) -> None:
    """A request and what becomes of it: in one partition, out of order, twice, late, ahead of its time, or broken."""
    partition, at_s = number * 7 // 3 % PARTITIONS, 10 + number + rng.uniform(-1.5, 1.5)
    name = f"r{number}"
    if rng.random() < 0.9:
        streams.show(name, at_s, partition=partition, user=number % 7)
    for _ in range(rng.choice([0, 1, 1, 2])):
        streams.act(name, at_s + rng.choice([0.5, 3.0, 11.0, 25.0]), partition=partition)
    if rng.random() < 0.1:
        streams.features.put(partition, None, b"\xc1 bad", 1, 1)
    if rng.random() < 0.1:
        streams.show(f"ahead{number}", at_s + 500, partition=partition, user=1)


def live(streams, reader, clock, seed: int, rounds: int = ROUNDS) -> list:
    """Steps of some uneven traffic, then of silence."""
    rng, steps = random.Random(seed), []
    for number in range(rounds):
        traffic(streams, rng, number)
        clock.tick(rng.choice([0.0, 0.2, 0.8]))
        while (step := reader.next(0.0)) is not None:
            steps.append(step)
    return steps


def heads(step) -> tuple:
    """Of a step everything but its samples' features and keys."""
    batch = step.batch
    columns = batch.labels, batch.rates, batch.event_time_ms, batch.ingestion_time_ms, batch.groups, batch.late
    return (step.number, step.watermark_ms, step.publish, step.records, step.digest, *(c.tobytes() for c in columns))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [1, 2, 3, PARTITIONS + 2])
def test_parts_make_the_steps_and_the_states_of_one_process(streams, job, reader_of, clock, seed, parts):
    streams = streams(PARTITIONS)
    reader = reader_of(job, 0)
    steps = live(streams, reader, clock, seed)
    state = reader.state()
    assert sum(len(step.batch) for step in steps) > ROUNDS / 4
    assert reader.progress().dead_letters.keys() >= {"malformed", "ahead", "late_positive"}
    again = reader_of(job, parts)
    for step in steps:
        made = again.next(10.0)
        assert heads(made) == heads(step)
        assert to_bytes(again.readers.dealt[-1]) == to_bytes(step.batch)
    assert again.state() == state
    assert again.progress().dead_letters == reader.progress().dead_letters
    assert again.progress().joined == reader.progress().joined


def test_one_process_makes_the_steps_that_parts_made_live(streams, job, reader_of, clock):
    streams = streams(PARTITIONS)
    reader = reader_of(job, 3)
    steps = live(streams, reader, clock, seed=9)
    samples = [to_bytes(batch) for batch in reader.readers.dealt]
    state = reader.state()
    assert sum(len(step.batch) for step in steps) > ROUNDS / 4
    again = reader_of(job, 0)
    for step, batch in zip(steps, samples, strict=True):
        made = again.next(10.0)
        assert heads(made) == heads(step)
        assert to_bytes(made.batch) == batch
    assert again.state() == state


def test_a_snapshot_of_some_parts_is_gone_on_with_by_any_others(streams, job, reader_of, clock, tmp_path):
    streams = streams(PARTITIONS)
    reader = reader_of(job, 0)
    steps = live(streams, reader, clock, seed=5)
    last, kept = reader.state(), None
    turns = [1, 3, 2, 0, 4, 0]
    per_turn = len(steps) // len(turns)
    for turn, parts in enumerate(turns):
        reader = reader_of(job, parts)
        if kept is not None:
            reader.load(kept)
        while steps and (len(steps) > per_turn * (len(turns) - turn - 1)):
            step = steps.pop(0)
            assert heads(reader.next(10.0)) == heads(step)
            if step.number % 3 == 0:
                kept = KeptOnDisk(tmp_path / "kept" / f"{turn}-{step.number}", reader.save(whole=kept is None), kept)
                assert whole_state(kept.read) == reader.state()
        kept = KeptOnDisk(tmp_path / "kept" / f"{turn}", reader.save(whole=True))
    assert reader.state() == last


def test_streams_with_other_partitions_are_refused_before_a_step_is_written(streams, topics, job, reader_of, clock):
    streams = streams(PARTITIONS)
    topics("actions", 2).put(0, None, b"", 1, 1)
    for parts in (0, 2):
        reader = reader_of(job, parts)
        for number in range(10):
            streams.show(f"r{number}", 10 + number, partition=number % PARTITIONS, user=1)
        clock.tick(1.0)
        with pytest.raises(ConfigError, match=r"features: .* has \[0, 1, 2, 3\]; actions: .* has \[0, 1\]"):
            reader.next(0.0)
        assert reader.last_step == 0


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_partitions_that_are_added_to_one_stream_are_read_once_the_other_has_them_too(
    streams, job, reader_of, clock, caplog, parts
):
    streams = streams(2)
    reader = reader_of(job, parts)

    def samples_of(begin: int, partitions: int) -> int:
        for number in range(begin, begin + 12):
            streams.show(f"r{number}", 10 + number, partition=number % partitions, user=1)
            if number % partitions < len(streams.actions.partitions):
                streams.act(f"r{number}", 10.5 + number, partition=number % partitions)
        count = 0
        for _ in range(4):
            clock.tick(1.0)
            while (step := reader.next(0.0)) is not None:
                count += len(step.batch)
        return count

    assert samples_of(0, 2) == 12
    streams.features.grow(4)
    assert samples_of(12, 4) == 6
    assert caplog.text.count("waiting for memory://actions: it lacks the partitions [2, 3] that") == 1
    streams.actions.grow(4)
    assert samples_of(24, 4) >= 12  # and of the six that stood unread those whose window has closed
    read = reader.progress().positions
    assert read == {"features": {0: 12, 1: 12, 2: 6, 3: 6}, "actions": {0: 12, 1: 12, 2: 3, 3: 3}}
    last, state = reader.last_step, reader.state()
    again = reader_of(job, 2, replay_only=True)
    for _ in range(last):
        again.next(10.0)
    assert again.state() == state


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_an_action_in_another_partition_than_its_features_finds_none_and_is_told_of(
    streams, make_job, reader_of, clock, parts
):
    streams = streams(2)
    reader = reader_of(make_job(input={"co_partitioned": True}), parts)
    for number in range(20):
        streams.show(f"r{number}", 10 + number, partition=number % 2, user=1)
        streams.act(f"r{number}", 10.5 + number, partition=0)
    clock.tick(1.0)
    while reader.next(0.0) is not None:
        clock.tick(1.0)
    progress = reader.progress()
    assert progress.joined.positives == 10
    assert progress.crossed == (0 if parts == 2 else 10)  # two processes never see that the other has the features


def test_what_one_record_made_stays_in_order():
    from monolith.streaming.divided import merged

    one = np.array([[0, 5, 0, 0, 1], [0, 5, 0, 0, 1], [1, 0, 0, 0, 9]])
    other = np.array([[0, 4, 1, 1, 1], [0, 5, 0, 1, 0]])
    order, places = merged([one, other])
    assert order.tolist() == [3, 0, 1, 4, 2]
    assert [each.tolist() for each in places] == [[1, 2, 4], [0, 3]]


def test_keys_of_a_run_stay_with_the_owners_of_its_partitions(streams, job, reader_of, clock):
    streams = streams(PARTITIONS)
    reader = reader_of(job, 2)
    live(streams, reader, clock, seed=2, rounds=20)
    for part in reader.readers.parts:
        for inlet in part.inlets:
            assert set(inlet.lanes) == {partition for partition in range(PARTITIONS) if part.owns(partition)}


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_end_where_the_streams_end_and_go_on_when_more_comes(streams, make_job, reader_of, clock, drain, parts):
    """Windows that are open at an end, records that are held there, and keys that are forgotten by then, or not yet."""
    job = make_job(
        input={"co_partitioned": True, "follow": False, "jump_records": 2, "max_jump_s": 60.0},
        join={"window_s": 20.0, "dedup_s": 25.0},
        train={"step_records": 16},
    )
    streams, rng = streams(PARTITIONS), random.Random(3)
    steps, samples, states = [], [], []
    for begin in (0, 60, 120):
        for number in range(begin, begin + 60):
            traffic(streams, rng, number % 80)  # some keys come again
        reader = reader_of(job, 0)
        if states:
            reader.restore(states[-1])
        steps.append(drain(reader))
        samples.append([to_bytes(step.batch) for step in steps[-1]])
        states.append(reader.state())
    assert sum(map(len, steps)) > 10
    for turn, of_turn in enumerate(steps):
        again = reader_of(job, parts, until=of_turn[-1].number)
        if turn:
            again.restore(states[turn - 1])
        made = [again.next(10.0) for _ in of_turn]
        assert [heads(step) for step in made] == [heads(step) for step in of_turn]
        assert [to_bytes(batch) for batch in again.readers.dealt] == samples[turn]
        assert again.state() == states[turn]
