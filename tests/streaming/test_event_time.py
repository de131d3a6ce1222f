"""One event with a wrong time costs itself; a stream in another unit, or one that stands still, is told of."""

from __future__ import annotations

import logging
import zlib
from collections import Counter

import msgspec
import numpy as np
import pytest
from batches import seen, told

from monolith.config import TableConfig
from monolith.errors import ConfigError
from monolith.events import ActionEvent, FeatureEvent, SampleEvent
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import decode_letter
from monolith.streaming.journal import Journal
from monolith.streaming.source import open_source
from monolith.tables import Table, expiry

START_MS = 1_500_000_000_000
DAY_MS, YEAR_MS = 86_400_000, 365 * 86_400_000
LETTERS = "memory://letters"


class Traffic:
    """Impressions a second apart; of every three two are clicked on, two seconds later."""

    def __init__(self, streams, *, ingestion_ms=lambda event_ms: event_ms) -> None:
        self.streams, self.ingestion_ms = streams, ingestion_ms
        self.now_ms = START_MS
        self.shown, self.clicked = [], []

    def put(self, event, *, ingested_ms=None) -> None:
        topic = self.streams.features if isinstance(event, FeatureEvent) else self.streams.actions
        stamp = self.ingestion_ms(event.event_time_ms) if ingested_ms is None else ingested_ms
        topic.put(0, None, encode(event), event.event_time_ms, stamp)

    def show(self, request: str, at_ms: int, **more) -> None:
        self.put(FeatureEvent(request, "i", at_ms, {"user": zlib.crc32(request.encode()) % 97}), **more)

    def act(self, request: str, at_ms: int, **more) -> None:
        self.put(ActionEvent(request, "i", "click", at_ms), **more)

    def go_on(self, seconds: int) -> None:
        for _ in range(seconds):
            n = len(self.shown)
            self.shown.append(f"r{n}")
            self.show(f"r{n}", self.now_ms)
            if n >= 2 and (n - 2) % 3:
                self.clicked.append(f"r{n - 2}")
                self.act(f"r{n - 2}", self.now_ms)
            self.now_ms += 1000


@pytest.fixture
def traffic(streams):
    def make(**more) -> Traffic:
        return Traffic(streams(), **more)

    return make


def take_all(reader) -> list:
    return [sample for step in iter(lambda: reader.next(0.0), None) for sample in seen(step)]


def labels(samples) -> Counter:
    return Counter((s.request_id, s.label) for s in samples if s.request_id.startswith("r"))


def right_labels(traffic: Traffic) -> Counter:
    return Counter((request, float(request in traffic.clicked)) for request in traffic.shown)


def live(make_job, **more):
    join = {"window_s": 30.0, "early_s": 5.0, "dedup_s": 60.0}
    return make_job(input=more, join=join, train={"step_records": 50})


# --- one event ahead --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["features", "actions", "both"])
def test_event_within_max_future_spoils_no_other_label(traffic, open_reader, make_job, drain, stream):
    traffic = traffic()
    traffic.go_on(500)
    if stream != "actions":
        traffic.show("wrong", traffic.now_ms + 599_000, ingested_ms=traffic.now_ms)
    if stream != "features":
        traffic.act("wrong", traffic.now_ms + 599_000, ingested_ms=traffic.now_ms)
    traffic.go_on(1000)
    reader = open_reader(live(make_job, follow=False))
    samples = [sample for step in drain(reader) for sample in seen(step)]
    assert labels(samples) == right_labels(traffic)
    assert reader.progress().joined.unmatched_actions == (stream == "actions")


def test_watermark_goes_on_and_samples_come_out_behind_an_event_that_is_ahead(traffic, open_reader, make_job):
    traffic = traffic()
    reader = open_reader(live(make_job))
    traffic.go_on(200)
    samples = take_all(reader)
    traffic.show("wrong", traffic.now_ms + 590_000, ingested_ms=traffic.now_ms)
    traffic.act("wrong", traffic.now_ms + 590_000, ingested_ms=traffic.now_ms)
    for _ in range(10):
        before = len(samples)
        traffic.go_on(100)
        samples += take_all(reader)
        assert len(samples) > before + 90
        assert traffic.now_ms - 20_000 < reader.progress().watermark_ms < traffic.now_ms
    assert reader.progress().joined.unmatched_actions == 0


@pytest.mark.parametrize("at", [0, 1, 3, 300, 599, 600])
def test_event_of_today_in_a_historic_stream_expires_no_row(traffic, open_reader, make_job, drain, at):
    traffic = traffic(ingestion_ms=lambda _: START_MS + 8 * YEAR_MS)
    traffic.go_on(at)
    traffic.show("wrong", START_MS + 8 * YEAR_MS)
    traffic.go_on(600 - at)
    table = Table(TableConfig(name="user", dim=4, expiry=expiry.Idle(ttl_s=3600.0)))
    reader = open_reader(live(make_job, follow=False))
    for step in drain(reader):
        for sample in seen(step):
            table.observe(np.array(sample.ids["user"]), event_time_ms=sample.event_time_ms)
        table.advance(step.watermark_ms)
    assert len(table.rows()[0]) == len({zlib.crc32(request.encode()) % 97 for request in traffic.shown})
    assert reader.progress().dead_letters == {"ahead": 1}


def test_silence_behind_an_event_that_is_ahead_trains_no_key_twice(traffic, open_reader, make_job, clock):
    traffic = traffic()
    reader = open_reader(live(make_job))
    samples = []
    for round_ in range(6):
        traffic.go_on(60)
        traffic.show(f"wrong{round_}", traffic.now_ms + 590_000, ingested_ms=traffic.now_ms)
        samples += take_all(reader)
        clock.tick(5.0)
        samples += take_all(reader)
    assert reader.progress().joined.late == 0
    assert max(labels(samples).values()) == 1
    clicked = {s.request_id for s in samples if s.label == 1.0}
    assert clicked == set(traffic.clicked)  # all of them, also the last


def test_time_of_a_producer_that_vouches_for_itself_spoils_no_other(traffic, open_reader, make_job, drain):
    """As with Kafka's CreateTime, where the record's own stamp is all that max_future_s can look at."""
    traffic = traffic()
    for _ in range(5):
        traffic.go_on(300)
        traffic.show(f"wrong{traffic.now_ms}", traffic.now_ms + 3_500_000)
        traffic.act(f"wrong{traffic.now_ms}", traffic.now_ms + 3_500_000)
    traffic.go_on(300)
    reader = open_reader(live(make_job, follow=False))
    samples = [sample for step in drain(reader) for sample in seen(step)]
    assert labels(samples) == right_labels(traffic)
    assert (reader.progress().joined.late, reader.progress().joined.unmatched_actions) == (0, 0)


def test_events_far_behind_are_late_and_hold_nothing_back(traffic, open_reader, make_job, drain):
    traffic = traffic()
    for _ in range(5):
        traffic.go_on(100)
        traffic.show(f"old{traffic.now_ms}", traffic.now_ms - YEAR_MS)
    traffic.go_on(100)
    reader = open_reader(live(make_job, follow=False))
    samples = [sample for step in drain(reader) for sample in seen(step)]
    assert labels(samples) == right_labels(traffic)
    assert sum(s.request_id.startswith("old") for s in samples) == 5


# --- streams that jump ------------------------------------------------------------------------------------------------


def test_stream_that_jumps_is_followed_and_loses_nothing(traffic, open_reader, make_job, drain, caplog):
    traffic = traffic()
    traffic.go_on(100)
    traffic.now_ms += YEAR_MS
    traffic.go_on(100)
    reader = open_reader(live(make_job, follow=False))
    samples = [sample for step in drain(reader) for sample in seen(step)]
    traffic.clicked = [r for r in traffic.clicked if r not in ("r98", "r99")]  # clicked on a year too late
    assert Counter(s.request_id for s in samples if not s.late) == Counter(traffic.shown)
    assert {s.request_id for s in samples if s.label and not s.late} == set(traffic.clicked)
    assert reader.progress().dead_letters == {}
    assert reader.progress().jumps == 2
    assert "a partition's clock jumps at=features/0" in caplog.text
    assert "input.max_jump_s" in caplog.text


def test_refused_event_is_a_letter_with_its_bytes_and_what_was_allowed(traffic, topics, open_reader, make_job, drain):
    topics("letters")
    traffic = traffic()
    traffic.go_on(50)
    traffic.show("wrong", traffic.now_ms + YEAR_MS)
    traffic.go_on(50)
    drain(open_reader(live(make_job, follow=False, dead_letters=LETTERS)))
    (record,) = open_source(LETTERS).poll(10, 0.0)
    letter = decode_letter(record.value)
    assert (letter.reason, letter.stream, letter.offset) == ("ahead", "features", 50)
    assert msgspec.msgpack.decode(letter.value)["request_id"] == "wrong"
    assert "input.max_jump_s allows 2.592e+06" in letter.detail
    assert "input.jump_records" in letter.detail


def test_held_event_is_counted_and_told_once(traffic, open_reader, make_job, caplog):
    traffic = traffic()
    reader = open_reader(live(make_job))
    traffic.go_on(50)
    for _ in range(3):
        traffic.show("wrong", traffic.now_ms + YEAR_MS)
    take_all(reader)
    assert reader.progress().held == 3
    assert caplog.text.count("event far ahead of its partition is held at=features/0/50") == 1
    traffic.go_on(50)
    take_all(reader)
    assert reader.progress().held == 0


# --- standing still ---------------------------------------------------------------------------------------------------


def test_watermark_that_stands_while_records_come_is_told_once_and_when_it_moves(
    traffic, open_reader, make_job, clock, caplog
):
    caplog.set_level(logging.INFO)
    traffic = traffic()
    reader = open_reader(live(make_job, idle_s=1e6))
    traffic.go_on(50)
    take_all(reader)
    for _ in range(10):  # the actions have stopped, and nothing is idle
        traffic.streams.features.put(0, None, encode(FeatureEvent("x", "i", traffic.now_ms, {"user": 1})), 0, 1 << 60)
        traffic.now_ms += 1000
        clock.tick(10.0)
        take_all(reader)
    assert caplog.text.count("the watermark stands still while records come") == 1
    assert "held_by=actions/0" in caplog.text
    assert reader.progress().stalled_s >= 80
    traffic.go_on(50)
    take_all(reader)
    assert "the watermark moves again" in caplog.text
    assert reader.progress().stalled_s == 0


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("us", 10**6), ("ns", 10**9)])
def test_stream_in_another_unit_stops_the_job_by_name_or_is_converted(
    topics, open_reader, make_job, drain, unit, per_s
):
    topic = topics("samples")
    for i in range(30):
        topic.put(0, None, encode(SampleEvent(f"r{i}", "i", (1_700_000_000 + i) * per_s, {"user": i}, 1.0)), 0, 1 << 60)
    urls = {"features": None, "actions": None, "samples": "memory://samples?bounded=1"}
    with pytest.raises(ConfigError, match=rf"memory://samples: all of its \d+ records so far: .*time_unit: {unit}"):
        drain(open_reader(make_job(input=urls)))
    reader = open_reader(make_job(input={**urls, "time_unit": unit}), folder="converted")
    steps = drain(reader)
    assert [s.request_id for step in steps for s in seen(step)] == [f"r{i}" for i in range(30)]
    assert seen(steps[0])[0].event_time_ms == 1_700_000_000_000


def test_stream_whose_times_are_meant_so_is_taken(topics, open_reader, make_job, drain):
    topic = topics("samples")
    for i in range(30):
        topic.put(0, None, encode(SampleEvent(f"r{i}", "i", 1_700_000_000 + i, {"user": i}, 1.0)), 0, 1 << 60)
    urls = {"features": None, "actions": None, "samples": "memory://samples?bounded=1", "check_time_unit": False}
    assert sum(len(step.batch) for step in drain(open_reader(make_job(input=urls)))) == 30


def test_one_event_in_seconds_is_a_letter_and_stops_nothing(traffic, open_reader, make_job, drain):
    traffic = traffic()
    traffic.show("wrong", START_MS // 1000)
    traffic.go_on(50)
    traffic.show("wrong", START_MS // 1000)
    traffic.go_on(50)
    reader = open_reader(live(make_job, follow=False))
    samples = [sample for step in drain(reader) for sample in seen(step)]
    assert labels(samples) == right_labels(traffic)
    assert reader.progress().dead_letters == {"time_unit": 2}


def test_live_stream_in_seconds_stops_the_job_when_enough_have_come(topics, open_reader, make_job):
    features = topics("features")
    topics("actions")
    reader = open_reader(make_job())
    for i in range(7):
        features.put(0, None, encode(FeatureEvent(f"r{i}", "i", 1_700_000_000 + i, {"user": 1})), 0, 1 << 60)
        assert reader.next(0.0).records == 1
    assert reader.progress().dead_letters == {"time_unit": 7}
    features.put(0, None, encode(FeatureEvent("r8", "i", 1_700_000_008, {"user": 1})), 0, 1 << 60)
    with pytest.raises(ConfigError, match="memory://features: all of its 8 records so far"):
        reader.next(0.0)


def test_stream_with_a_time_of_its_own_passes_the_numbers_that_seconds_have(topics, open_reader, make_job, drain):
    topic = topics("samples")
    for i in range(40):
        topic.put(0, None, encode(SampleEvent(f"r{i}", "i", i * DAY_MS, {"user": i}, 1.0)), i * DAY_MS)
    urls = {"features": None, "actions": None, "samples": "memory://samples?bounded=1"}
    reader = open_reader(make_job(input=urls))
    assert sum(len(step.batch) for step in drain(reader)) == 40


# --- of an older build ------------------------------------------------------------------------------------------------


def test_records_that_agree_on_a_wrong_time_within_the_limit_are_told_and_counted(
    traffic, open_reader, make_job, drain, caplog
):
    traffic = traffic()
    traffic.go_on(200)
    for i in range(8):
        traffic.show(f"wrong{i}", traffic.now_ms + 599_000)
    traffic.go_on(200)
    reader = open_reader(live(make_job, follow=False))
    for _ in drain(reader):
        pass
    told = [record.getMessage() for record in caplog.records if "ahead of its records" in record.getMessage()]
    assert len(told) == 1
    assert "at=features/0" in told[0]
    assert reader.progress().jumps == 1


def test_steps_of_an_older_journal_run_by_its_rule(traffic, open_reader, make_job, monkeypatch, tmp_path):
    """Version 2 has no `agree`: the newest time is the clock, as it was when those steps were written."""
    traffic = traffic()
    job = live(make_job, jump_records=1)
    with monkeypatch.context() as patch:
        patch.setattr("monolith.streaming.journal_frames.JOURNAL_VERSION", 2)
        reader = open_reader(job)
        traffic.go_on(40)
        reader.next(0.0)
        state = reader.state()
        traffic.go_on(40)
        old = [reader.next(0.0), reader.next(0.0)]
        reader.close()
    fields = msgspec.msgpack.decode(state)
    fields[0] = 1
    fields[6] = {name: {p: lane[:3] for p, lane in lanes.items()} for name, lanes in fields[6].items()}
    reader = open_reader(live(make_job))
    reader.restore(msgspec.msgpack.encode(fields))
    assert [told(reader.next(0.0)), told(reader.next(0.0))] == list(map(told, old))
    traffic.go_on(40)
    step = reader.next(0.0)
    reader.close()
    journal = Journal(tmp_path / "journal", read_only=True)
    assert [(entry.step, entry.agree) for entry in journal.read(1)] == [
        *((n, 1) for n in range(1, step.number)),
        (step.number, 8),
    ]
    assert len(list((tmp_path / "journal").glob("*.journal"))) == 2
