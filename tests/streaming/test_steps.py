from __future__ import annotations

import pytest
from batches import seen

from monolith.errors import ConfigError
from monolith.events import WATERMARK_START, SampleEvent
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import decode_letter
from monolith.streaming.journal import Journal
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader


def labels(step) -> list[tuple[str, float]]:
    return [(sample.request_id, sample.label) for sample in seen(step)]


def all_of(steps) -> list:
    return [sample for step in steps for sample in seen(step)]


def all_labels(steps) -> list[tuple[str, float]]:
    return [label for step in steps for label in labels(step)]


# --- watermark, idleness ----------------------------------------------------------------------------------------------


def test_quiet_stream_releases_everything_that_is_due(streams, open_reader, make_job, clock):
    streams = streams()
    streams.show("a", 1)
    streams.act("a", 2)
    reader = open_reader(make_job(input={"jump_records": 1}))
    first = reader.next(0.0)
    assert (seen(first), first.records) == ([], 2)  # another record at 2 s could still come
    assert first.watermark_ms == 999
    assert reader.next(0.0) is None
    clock.tick(1.0)
    second = reader.next(0.0)
    assert labels(second) == [("a", 1.0)]
    assert (second.number, second.records) == (2, 0)
    assert second.watermark_ms == 1999  # the slowest clock, a second of silence later
    assert reader.next(0.0) is None


def test_quiet_stream_of_few_records_releases_them_before_any_clock_is_known(streams, open_reader, make_job, clock):
    streams = streams()
    streams.show("a", 1)
    streams.act("a", 2)
    reader = open_reader(make_job())
    assert reader.next(0.0).watermark_ms == WATERMARK_START
    clock.tick(1.0)
    second = reader.next(0.0)
    assert labels(second) == [("a", 1.0)]
    assert second.watermark_ms == WATERMARK_START
    assert reader.next(0.0) is None


def test_silence_ends_no_window(streams, open_reader, make_job, clock):
    """The features are 100 s further than the actions, the window is 10 s: they wait for their positives."""
    streams = streams()
    for i in range(100):
        streams.show(f"r{i}", 1 + i)
    streams.act("r0", 1)
    reader = open_reader(make_job(input={"jump_records": 1}))
    reader.next(0.0)
    clock.tick(5.0)
    assert all_labels(iter(lambda: reader.next(0.0), None)) == [("r0", 1.0)]
    for i in range(1, 50):
        streams.act(f"r{i}", 1.5 + i)
    assert all_labels(iter(lambda: reader.next(0.0), None)) == [(f"r{i}", 1.0) for i in range(1, 49)]
    assert reader.progress().joined.late == 0


def test_watermark_is_held_by_the_slowest_partition(streams, open_reader, make_job, clock):
    streams = streams(2)
    streams.show("a", 1, partition=0)
    streams.show("b", 50, partition=1)
    streams.act("x", 40, partition=0)
    streams.act("y", 40, partition=1)
    reader = open_reader(make_job(input={"jump_records": 1}))
    assert reader.next(0.0).watermark_ms == 999
    streams.show("c", 30, partition=0)
    assert reader.next(0.0).watermark_ms == 30_000 - 1


def test_lane_that_wakes_first_after_a_silence_leaves_the_others_their_time(streams, open_reader, make_job, clock):
    """The features of 100 s come a moment before their actions, and the window is 10 s."""
    streams = streams()
    reader = open_reader(make_job(input={"jump_records": 1}))
    for round_ in range(3):
        first = 1 + 100 * round_
        for i in range(100):
            streams.show(f"r{first + i}", first + i)
        steps = list(iter(lambda: reader.next(0.0), None))
        clock.tick(0.2)
        for i in range(100):
            streams.act(f"r{first + i}", first + i)
        steps += iter(lambda: reader.next(0.0), None)
        clock.tick(5.0)
        steps += iter(lambda: reader.next(0.0), None)
        assert all_labels(steps) == [(f"r{first + i}", 1.0) for i in range(100)]
    assert reader.progress().joined.late == 0


def test_partition_that_was_idle_before_a_silence_is_idle_after_it(streams, open_reader, make_job, clock):
    streams = streams(2)
    for partition in (0, 1):
        streams.show(f"a{partition}", 1, partition=partition)
        streams.act(f"a{partition}", 1, partition=partition)
    reader = open_reader(make_job(input={"jump_records": 1}))
    for second in range(2, 6):  # each after a silence; partition 1 gives no more
        assert reader.next(0.0) is not None
        clock.tick(5.0)
        streams.show(f"a{second}", second)
        streams.act(f"a{second}", second)
    while reader.next(0.0):
        pass
    assert reader.progress().watermark_ms == 5_000 - 1


def test_watermark_never_goes_back(streams, open_reader, make_job, clock):
    streams = streams()
    streams.show("a", 100)
    reader = open_reader(make_job(input={"jump_records": 1}))
    reader.next(0.0)
    clock.tick(1.0)
    assert reader.next(0.0).watermark_ms == 99_999
    streams.show("b", 3)
    assert reader.next(0.0).watermark_ms == 99_999


def test_out_of_order_allowance_holds_the_watermark_back(streams, open_reader, make_job):
    streams = streams()
    streams.show("a", 100)
    streams.act("a", 100)
    reader = open_reader(make_job(input={"max_out_of_order_s": 7.0, "jump_records": 1}))
    assert reader.next(0.0).watermark_ms == 93_000 - 1


def test_partition_that_lags_is_not_idle_however_long_it_is_silent(streams, open_reader, make_job, clock):
    """Here the lane is full and so not polled: it has records, so it holds the watermark."""
    streams = streams(2)
    for i in range(10):
        streams.show(f"a{i}", 1 + i, partition=0)
    streams.show("b", 500, partition=1)
    reader = open_reader(make_job(train={"step_records": 2}))
    clock.tick(100.0)
    assert reader.next(0.0).watermark_ms < 3000


def test_oldest_event_times_are_read_first(streams, open_reader, make_job):
    streams = streams(2)
    for i in range(5):
        streams.show(f"new{i}", 100 + i, partition=0)
        streams.show(f"old{i}", 1 + i, partition=1)
    reader = open_reader(make_job(train={"step_records": 5}))
    reader.next(0.0)
    assert reader.progress().positions["features"] == {0: 0, 1: 5}


# --- cutting ----------------------------------------------------------------------------------------------------------


def test_step_lingers_for_more_records_unless_it_is_full(streams, open_reader, make_job, clock):
    streams = streams()
    streams.show("a", 1)
    reader = open_reader(make_job(train={"step_linger_s": 2.0, "step_records": 3}))
    assert reader.next(0.0) is None
    clock.tick(1.9)
    assert reader.next(0.0) is None
    clock.tick(0.1)
    assert reader.next(0.0).records == 1
    for i in range(4):
        streams.show(f"b{i}", 2 + i)
    assert reader.next(0.0).records == 3
    assert reader.next(0.0) is None


def test_publish_is_due_after_its_time_if_there_is_something_to_publish(streams, open_reader, make_job, clock):
    streams = streams()
    reader = open_reader(make_job())
    clock.tick(100.0)
    assert reader.next(0.0) is None  # nothing trained: nothing to publish
    streams.show("a", 1)
    streams.act("a", 2)
    assert reader.next(0.0).publish is False
    clock.tick(1.0)
    trained = reader.next(0.0)
    assert labels(trained) == [("a", 1.0)]
    assert reader.next(0.0) is None
    clock.tick(4.0)
    quiet = reader.next(0.0)
    assert (quiet.publish, quiet.records, seen(quiet)) == (True, 0, [])
    clock.tick(100.0)
    assert reader.next(0.0) is None  # and nothing new since


def test_publishing_entry_is_durable_before_the_step_is_returned(streams, open_reader, make_job, clock, monkeypatch):
    streams = streams()
    streams.show("a", 1)
    streams.act("a", 2)
    reader = open_reader(make_job())
    synced = []
    monkeypatch.setattr(Journal, "sync", lambda journal: synced.append(journal.last_step))
    while not (step := reader.next(0.0)) or not step.publish:
        clock.tick(1.0)
    assert synced == [step.number]


def test_bounded_job_ends_with_everything_released_and_a_publish(streams, open_reader, make_job, drain):
    streams = streams()
    streams.show("a", 1)
    streams.show("b", 2)
    streams.act("a", 3)
    streams.act("x", 4)
    steps = drain(open_reader(make_job(input={"follow": False})))
    assert all_of(steps) == sorted(all_of(steps), key=lambda sample: sample.request_id)
    assert [(s.request_id, s.label) for s in all_of(steps)] == [("a", 1.0), ("b", 0.0)]
    assert steps[-1].publish
    assert steps[-1].watermark_ms == 4000  # the newest event time: what was idle before it may expire, nothing else


def test_job_that_does_not_follow_stops_at_the_end_that_it_found(streams, open_reader, make_job, drain):
    streams = streams()
    streams.show("a", 1)
    reader = open_reader(make_job(input={"follow": False}, train={"step_linger_s": 100.0}))
    steps = []
    reader.next(0.0)
    streams.show("b", 2)
    while not steps or not steps[-1].ended:
        step = reader.next(0.0)
        assert step is not None
        steps.append(step)
    assert reader.progress().positions["features"] == {0: 1}


def test_ended_job_that_is_run_again_makes_no_step_until_there_is_something_new(streams, open_reader, make_job, drain):
    streams = streams()
    streams.show("a", 1)
    job = make_job(input={"follow": False})
    reader = open_reader(job)
    last = drain(reader)[-1]
    state = reader.state()
    again = open_reader(job)
    again.restore(state)
    (only,) = drain(again)
    assert (only.number, seen(only), only.publish, only.ended) == (last.number, [], False, True)
    streams.show("b", 2)
    third = open_reader(job)
    third.restore(state)
    steps = drain(third)
    assert [s.request_id for s in all_of(steps)] == ["b"]
    assert steps[-1].number > last.number


def test_empty_bounded_streams_end_at_once(streams, open_reader, make_job, drain):
    streams()
    (step,) = drain(open_reader(make_job(input={"follow": False})))
    assert (seen(step), step.records, step.watermark_ms) == ([], 0, WATERMARK_START)


def test_joined_samples_are_read_alone(topics, open_reader, make_job, drain):
    topic = topics("samples")
    for i in range(3):
        topic.put(0, None, encode(SampleEvent(f"r{i}", "i", 1000 + i, {"user": i}, float(i % 2))), 1000 + i)
    job = make_job(input={"features": None, "actions": None, "samples": "memory://samples?bounded=1"})
    assert [s.label for s in all_of(drain(open_reader(job)))] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("missing", ["features", "actions"])
def test_streams_that_make_no_samples_are_refused(open_reader, make_job, missing):
    with pytest.raises(ConfigError, match=r"needs input.features and input.actions, or"):
        open_reader(make_job(input={missing: None}))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_partition_that_runs_ahead_is_not_read_while_memory_is_short(streams, open_reader, make_job, drain):
    streams = streams(2)
    for i in range(400):
        streams.show(f"ahead{i}", 1000 + i, partition=0)
        streams.act(f"none{i}", 1000 + i, partition=0)
        streams.act(f"none{i}", 1000 + i, partition=1)
    for i in range(2000):
        streams.show(f"slow{i}", i / 2, partition=1)
    streams.show("last", 2000, partition=1)
    job = make_job(
        input={"follow": False},
        join={"max_bytes": 200_000, "dedup_s": 10.0, "early_s": 0.0},
        train={"step_records": 20},
    )
    reader = open_reader(job)
    peak, ends = 0, None
    while ends is None or not ends.ended:
        ends = reader.next(10.0)
        peak = max(peak, reader.progress().waiting_bytes)
    assert peak <= 200_000
    assert reader.progress().joined.negatives == 2401


def test_window_that_does_not_fit_is_an_error_that_names_the_settings(streams, open_reader, make_job, drain):
    streams = streams()
    for i in range(2000):
        streams.show(f"a{i}", 1 + i / 1000)
    job = make_job(input={"follow": False}, join={"max_bytes": 100_000}, train={"step_records": 20})
    with pytest.raises(ConfigError, match=r"join\.max_bytes.*join\.window_s.*join\.dedup_s.*max_out_of_order_s"):
        drain(open_reader(job))


# --- bad records ------------------------------------------------------------------------------------------------------


def test_bad_records_go_to_the_dead_letters_and_the_job_goes_on(streams, open_reader, make_job, drain, tmp_path):
    url = f"log://{tmp_path}/letters"
    streams = streams()
    streams.show("a", 1)
    streams.features.put(0, b"k", b"\xc1", 1, 1)
    streams.show("future", 10_000_000)
    streams.show("b", 2, unknown=1)
    streams.act("a", 2)
    job = make_job(input={"follow": False, "dead_letters": url})
    steps = drain(open_reader(job))
    letters = [decode_letter(record.value) for record in open_source(url).poll(100, 0.0)]
    assert [(letter.offset, letter.reason) for letter in letters] == [(1, "malformed"), (3, "unknown_feature")]
    assert ("a", 1.0) in [(s.request_id, s.label) for s in all_of(steps)]


def test_future_event_does_not_move_the_clock(topics, open_reader, make_job, feature_bytes):
    features = topics("features")
    topics("actions")
    features.put(0, None, feature_bytes("a", 1000), 1000, 1000)
    features.put(0, None, feature_bytes("b", 10_000_000), 10_000_000, 1000)
    reader = open_reader(make_job())
    reader.next(0.0)
    assert reader.progress().dead_letters == {"future": 1}
    assert list(reader._runner.lanes()[0].clock.recent) == [1000]


def test_late_positive_goes_to_the_dead_letters_where_the_job_says_so(streams, open_reader, make_job, drain, tmp_path):
    url = f"log://{tmp_path}/letters"
    streams = streams()
    streams.show("a", 1)
    streams.show("b", 20)
    streams.act("a", 15)
    job = make_job(input={"follow": False, "dead_letters": url}, join={"late_positives": "dead_letter"})
    steps = drain(open_reader(job))
    (record,) = open_source(url).poll(100, 0.0)
    letter = decode_letter(record.value)
    assert (letter.reason, letter.stream, letter.offset) == ("late_positive", "actions", 0)
    assert [(s.request_id, s.label) for s in all_of(steps)] == [("a", 0.0), ("b", 0.0)]


# --- streams that are not there ---------------------------------------------------------------------------------------


def test_open_names_the_run_and_closes_as_a_context(make_job, streams, tmp_path):
    streams()
    with StepReader.open(make_job(), tmp_path / "j") as reader:
        lineage = reader.lineage
        with pytest.raises(ConfigError, match="in use by process"):
            StepReader.open(make_job(), tmp_path / "j")
    with StepReader.open(make_job(), tmp_path / "j") as reader:
        assert reader.lineage == lineage
        assert reader.progress().lag == 0
        reader.state()
        reader.commit()
