from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from batches import PlainJoiner, row_of

from monolith.config import JoinConfig
from monolith.errors import CorruptError, VersionError
from monolith.events import WATERMARK_END, ActionEvent, Joined, Record, Shown

SECOND = 1000


@pytest.fixture
def make_joiner():
    def make(**changes) -> PlainJoiner:
        return PlainJoiner(JoinConfig(**{"window_s": 10.0, "early_s": 5.0, "dedup_s": 30.0, **changes}))

    return make


class Feeder:
    """Adds events with rising offsets, each at its own event time."""

    def __init__(self, joiner: PlainJoiner) -> None:
        self.joiner = joiner
        self.offset = 0

    def add(self, event, stream: int, ingestion_ms: int | None = None) -> None:
        stamp = event.event_time_ms if ingestion_ms is None else ingestion_ms
        record = Record(None, b"", event.event_time_ms, stamp, 0, self.offset)
        self.offset += 1
        self.joiner.add(record, event, stream, event.event_time_ms)

    def show(self, request: str, at_s: float, ingestion_ms: int | None = None, user: int = 1) -> None:
        self.add(Shown(request, "i", round(at_s * SECOND), row_of(user)), 0, ingestion_ms)

    def act(self, request: str, at_s: float, action: str = "click", ingestion_ms: int | None = None) -> None:
        self.add(ActionEvent(request, "i", action, round(at_s * SECOND)), 1, ingestion_ms)


@pytest.fixture
def feed():
    return Feeder


def brief(samples) -> list[tuple[str, float, bool]]:
    return [(s.request_id, s.label, s.late) for s in samples]


def test_action_in_the_window_makes_a_positive_at_once(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1, user=7)
    stream.act("a", 3)
    (sample,) = joiner.advance(3 * SECOND)
    assert (sample.label, sample.event_time_ms, sample.number) == (1.0, 1 * SECOND, 7)


def test_action_at_the_last_moment_of_the_window_is_a_positive(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1)
    stream.act("a", 11)
    assert brief(joiner.advance(11 * SECOND)) == [("a", 1.0, False)]


def test_negative_comes_at_the_end_of_the_window_and_not_before(make_joiner, feed):
    joiner = make_joiner()
    feed(joiner).show("a", 1)
    assert joiner.advance(11 * SECOND - 1) == []
    assert brief(joiner.advance(11 * SECOND)) == [("a", 0.0, False)]


def test_nothing_is_released_before_the_watermark(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1)
    stream.act("a", 2)
    assert joiner.advance(2 * SECOND - 1) == []
    assert joiner.due_ms() == 2 * SECOND


def test_early_action_joins_the_features_that_come_within_early_s(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.act("a", 1)
    stream.act("b", 1)
    stream.show("a", 6)
    stream.show("b", 6.001)
    assert brief(joiner.advance(7 * SECOND)) == [("a", 1.0, False)]
    assert joiner.counters.unmatched_actions == 1
    assert brief(joiner.advance(20 * SECOND)) == [("b", 0.0, False)]


def test_repeated_features_and_actions_count_once(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1, user=1)
    stream.show("a", 2, user=2)
    stream.act("a", 3)
    stream.act("a", 4)
    stream.act("a", 20)
    (sample,) = joiner.advance(WATERMARK_END)
    assert sample.number == 1
    assert (joiner.counters.duplicate_features, joiner.counters.duplicate_actions) == (1, 2)


def test_key_is_forgotten_after_dedup_s_and_then_new(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1)
    stream.show("a", 31)  # 30 s later: still known
    stream.show("a", 32)
    assert brief(joiner.advance(100 * SECOND)) == [("a", 0.0, False)] * 2
    assert joiner.counters.duplicate_features == 1
    assert joiner.total_bytes == 0


def test_positive_is_remembered_for_dedup_s_after_its_action(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1)
    stream.act("a", 9)
    stream.show("a", 38)
    stream.act("a", 39)
    assert brief(joiner.advance(WATERMARK_END)) == [("a", 1.0, False)]
    assert (joiner.counters.duplicate_features, joiner.counters.duplicate_actions) == (1, 1)


def test_late_positive_is_emitted_as_such(make_joiner, feed):
    joiner = make_joiner(late_positives="emit")
    stream = feed(joiner)
    stream.show("a", 1, user=7)
    stream.act("a", 12)
    stream.act("a", 13)
    samples = joiner.advance(13 * SECOND)
    assert brief(samples) == [("a", 0.0, False), ("a", 1.0, True)]
    assert samples[1].number == 7
    assert (joiner.counters.late, joiner.counters.duplicate_actions) == (1, 1)


@pytest.mark.parametrize(("policy", "letters"), [("drop", 0), ("dead_letter", 1)])
def test_late_positive_is_dropped_or_handed_over(make_joiner, feed, policy, letters):
    joiner = make_joiner(late_positives=policy)
    stream = feed(joiner)
    stream.show("a", 1)
    stream.act("a", 12)
    stream.act("a", 13)
    assert brief(joiner.advance(13 * SECOND)) == [("a", 0.0, False)]
    assert joiner.counters.late == 1
    assert [(late.event.request_id, late.offset) for late in joiner.late_actions] == [("a", 1)] * letters


def test_actions_that_are_not_positive_are_ignored(make_joiner, feed):
    joiner = make_joiner(positive_actions=["buy"])
    stream = feed(joiner)
    stream.show("a", 1)
    stream.act("a", 2, "click")
    stream.act("a", 3, "buy")
    assert brief(joiner.advance(3 * SECOND)) == [("a", 1.0, False)]
    assert joiner.counters.ignored_actions == 1


def test_negative_sampling_keeps_its_share_and_every_sample_carries_the_rate(make_joiner, feed):
    joiner = make_joiner(negative_rate=0.25)
    stream = feed(joiner)
    for i in range(2000):
        stream.show(f"r{i}", 1)
    for i in range(200):
        stream.act(f"r{i}", 2)
    samples = joiner.advance(WATERMARK_END)
    assert sum(s.label for s in samples) == 200  # positives are never thinned
    assert 0.2 < sum(s.label == 0 for s in samples) / 1800 < 0.3
    assert {s.rate for s in samples} == {0.25}
    assert joiner.counters.negatives + joiner.counters.sampled_out == 1800


def test_negative_sampling_is_by_key_and_so_the_same_in_every_run(make_joiner, feed):
    kept = []
    for start in (0, 500):
        joiner = make_joiner(negative_rate=0.5)
        stream = feed(joiner)
        for i in range(100):
            stream.show(f"r{i}", start + i)
        kept.append([s.request_id for s in joiner.advance(WATERMARK_END)])
    assert kept[0] == kept[1]
    assert 20 < len(kept[0]) < 80


def test_joined_samples_pass_in_event_time_order_with_their_own_rate(make_joiner, feed):
    joiner = make_joiner(negative_rate=0.5)
    stream = feed(joiner)
    stream.add(Joined("b", "i", 2000, row_of(2), 0.0, 0.125), 2)
    stream.add(Joined("a", "i", 1000, row_of(1), 1.0), 2)
    samples = joiner.advance(WATERMARK_END)
    assert [(s.request_id, s.label, s.rate) for s in samples] == [("a", 1.0, 1.0), ("b", 0.0, 0.125)]


def test_features_come_before_an_action_of_the_same_instant(make_joiner, feed):
    joiner = make_joiner(early_s=0.0)
    stream = feed(joiner)
    stream.act("a", 1)
    stream.show("a", 1)
    assert brief(joiner.advance(SECOND)) == [("a", 1.0, False)]


def test_sample_is_completed_by_its_action_or_by_what_moved_the_watermark(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.show("a", 1, ingestion_ms=100)
    stream.show("b", 1, ingestion_ms=101)
    stream.act("a", 2, ingestion_ms=250)
    stream.show("c", 11, ingestion_ms=999)
    positive, negative = joiner.advance(11 * SECOND)
    assert (positive.request_id, positive.ingestion_time_ms) == ("a", 250)
    assert (negative.request_id, negative.ingestion_time_ms) == ("b", 999)


def test_end_of_the_streams_flushes_windows_and_parked_actions_but_remembers_duplicates(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    stream.act("x", 1)
    stream.show("a", 2)
    assert brief(joiner.advance(WATERMARK_END)) == [("a", 0.0, False)]
    assert joiner.counters.unmatched_actions == 1
    stream.show("a", 3)
    assert joiner.advance(WATERMARK_END) == []
    assert joiner.counters.duplicate_features == 1


MEASURE = """
import os, sys
from pathlib import Path
from monolith.config import JoinConfig
from monolith.events import Record, Shown
from monolith.streaming.joiner import Joiner
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
joiner, count, before = Joiner(JoinConfig(window_s=5000.0, dedup_s=10000.0), 8), int(sys.argv[1]), resident()
for i in range(count):
    joiner.add(Record(None, b"", i, i, 0, i), Shown(f"r{i:06d}", f"i{i}", i, bytes(8)), 0, i)
    if i % 1000 == 999:
        joiner.advance(i)
print((resident() - before) / count, joiner.total_bytes / count)
"""


def test_bytes_are_close_to_the_memory_that_waiting_takes():
    """In a process of its own, whose memory nobody used before."""
    told = subprocess.run([sys.executable, "-c", MEASURE, "100000"], capture_output=True, text=True, check=True).stdout
    taken, estimate = map(float, told.split())
    assert taken < 8 + 200  # the packed row, and what a waiting key may take beside it
    assert 0.5 < taken / estimate < 1.5


def test_estimate_returns_to_zero_when_nothing_waits(make_joiner, feed):
    joiner = make_joiner()
    stream = feed(joiner)
    for i in range(20):
        stream.show(f"r{i}", i)
        stream.act(f"r{i + 10}", i + 1)
    joiner.advance(1000 * SECOND)
    assert joiner.total_bytes == 0


def test_state_of_another_version_is_refused(make_joiner):
    state = msgspec.msgpack.decode(make_joiner().state())
    with pytest.raises(VersionError, match="version 9, this build reads 1 and 2"):
        make_joiner().restore(msgspec.msgpack.encode([9, *state[1:]]))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x91\x01"])
def test_broken_state_is_refused(make_joiner, data):
    with pytest.raises(CorruptError):
        make_joiner().restore(data)
