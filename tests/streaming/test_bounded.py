"""Steps that nobody writes down: the same as a run's that does not follow, by size alone."""

from __future__ import annotations

import pytest
from batches import seen

from monolith.errors import ConfigError
from monolith.events import ActionEvent
from monolith.streaming.bounded import open_bounded
from monolith.streaming.codec import encode


def traffic(streams) -> None:
    for i in range(200):
        streams.show(f"r{i}", 10 + i, partition=i % 2, user=i % 9)
        if i % 3:
            streams.act(f"r{i}", 12 + i, partition=i % 2)


def facts(steps) -> list:
    return [(step.number, seen(step), step.watermark_ms, step.records, step.ended) for step in steps]


def test_steps_are_those_of_a_run_that_does_not_follow(streams, open_reader, make_job, drain):
    traffic(streams(2))
    job = make_job(input={"follow": False}, train={"step_records": 16, "step_linger_s": 0.05})
    run = drain(open_reader(job))
    with open_bounded(make_job(train={"step_records": 16})) as reader:
        assert facts(drain(reader)) == facts(run)
    assert len(run) > 10


def test_records_too_big_for_a_whole_step_are_not_waited_for(streams, make_job, drain):
    streams = streams()
    for i in range(12):
        streams.features.put(0, None, b"x" * 2**20, 1000 + i, 1000 + i)
    with open_bounded(make_job(input={"max_reject_share": 1.0})) as reader:
        steps = drain(reader)
        assert sum(step.records for step in steps) == 12
        assert reader.progress().dead_letters == {"malformed": 12}


def test_nothing_is_written(streams, make_job, drain, tmp_path):
    streams = streams(2)
    traffic(streams)
    streams.features.put(0, None, b"junk", 1, 1)
    job = make_job(input={"dead_letters": f"log://{tmp_path / 'dead'}"})
    with open_bounded(job) as reader:
        drain(reader)
        assert reader.next(timeout_s=0.0).ended
    assert list(tmp_path.iterdir()) == []


def test_each_event_is_shown_in_order_with_the_samples_before_it(streams, make_job, drain):
    streams = streams()
    for request, at_s in (("a", 1), ("b", 5), ("a", 6), ("c", 30)):  # windows of 10 s; the second "a" is a repeat
        streams.show(request, at_s)
    streams.act("b", 7)
    shown = []
    with open_bounded(make_job(), on_shown=lambda before, event: shown.append((before, event.request_id))) as reader:
        samples = [sample.request_id for step in drain(reader) for sample in seen(step)]
    assert samples == ["b", "a", "c"]
    assert shown == [(0, "a"), (0, "b"), (2, "c")]


def test_unjoined_features_are_samples_by_themselves(streams, make_job, drain):
    streams = streams()
    streams.show("a", 1, user=4)
    streams.features.put(0, None, encode(ActionEvent("a", "i", "click", 1000)), 1000, 1000)
    job = make_job(input={"features": None, "actions": None, "samples": "memory://features"})
    with open_bounded(job, unjoined=True) as reader:
        (sample,) = [sample for step in drain(reader) for sample in seen(step)]
        assert (sample.request_id, sample.ids, sample.label) == ("a", {"user": [4]}, 0.0)
        assert reader.progress().dead_letters == {"wrong_stream": 1}


def test_a_stream_that_is_not_there_is_not_waited_for(make_job, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        open_bounded(make_job(input={"features": f"log://{tmp_path}/nowhere"}))
