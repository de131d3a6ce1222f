from __future__ import annotations

import pytest

from monolith.errors import ConfigError, CorruptError, InputError, UnavailableError, VersionError
from monolith.events import Record
from monolith.streaming import deadletters
from monolith.streaming.deadletters import DeadLetters, decode_letter
from monolith.streaming.source import open_source


def bad(offset: int, value: bytes = b"bad") -> Record:
    return Record(b"key", value, 5, 6, 1, offset)


@pytest.fixture
def url(tmp_path):
    return f"log://{tmp_path}/letters"


def kept(url: str) -> list[str]:
    return [decode_letter(record.value).place() for record in open_source(url).poll(1000, 0.0)]


def test_letter_holds_the_record_its_place_and_the_reason(url):
    letters = DeadLetters(url)
    letters.add("features", bad(3), "malformed", "no map")
    letters.flush()
    (record,) = open_source(url).poll(10, 0.0)
    letter = decode_letter(record.value)
    assert record.key == b"features/1/3"
    assert (letter.reason, letter.detail, letter.key, letter.value) == ("malformed", "no map", b"key", b"bad")
    assert (letter.partition, letter.offset, letter.event_time_ms, letter.ingestion_time_ms) == (1, 3, 5, 6)


def test_without_a_sink_letters_are_counted_and_logged_seldom(caplog):
    letters = DeadLetters(None)
    for offset in range(100):
        letters.add("features", bad(offset), "malformed" if offset % 2 else "future", "why")
    letters.flush()
    assert letters.counts == {"malformed": 50, "future": 50}
    assert caplog.text.count("dead letter reason=") == 1


def test_rerun_after_a_crash_writes_no_letter_twice(url):
    letters = DeadLetters(url)
    letters.add("features", bad(1), "malformed", "")
    letters.flush()
    snapshot = letters.state()
    letters.add("features", bad(2), "malformed", "")
    letters.flush()
    letters.close()
    again = DeadLetters(url)
    again.restore(snapshot, {"features": {1: 2}})
    for offset in (2, 3):
        again.add("features", bad(offset), "malformed", "")
    again.flush()
    assert kept(url) == ["features/1/1", "features/1/2", "features/1/3"]
    assert again.counts == {"malformed": 3}


def test_rerun_before_the_first_snapshot_writes_no_letter_twice(url):
    for _ in range(2):
        letters = DeadLetters(url)
        letters.add("features", bad(1), "malformed", "")
        letters.flush()
        letters.close()
    assert kept(url) == ["features/1/1"]


def test_another_record_at_the_place_of_an_old_letter_is_written(url):
    for value in (b"old stream", b"new stream"):
        letters = DeadLetters(url)
        letters.add("features", bad(1, value), "malformed", "")
        letters.flush()
        letters.close()
    assert kept(url) == ["features/1/1"] * 2


class DownSink:
    def __init__(self) -> None:
        self.down, self.records = True, []

    def append(self, records) -> None:
        if self.down:
            raise UnavailableError("the sink does not answer")
        self.records += records

    def close(self) -> None:
        pass


@pytest.fixture
def down(monkeypatch):
    sink = DownSink()
    monkeypatch.setattr(deadletters, "open_sink", lambda _: sink)
    monkeypatch.setattr(deadletters, "_RETRY_S", 0.0)
    return sink


def test_sink_that_is_down_stops_nothing_and_gets_its_letters_later(down):
    letters = DeadLetters("kafka://nowhere:1/letters")
    letters.add("features", bad(1), "malformed", "")
    letters.flush()
    letters.add("features", bad(2), "malformed", "")
    letters.flush()
    assert down.records == []
    down.down = False
    letters.flush()
    assert [key for key, _, _ in down.records] == [b"features/1/1", b"features/1/2"]


def test_letters_that_wait_are_in_the_snapshot(down):
    letters = DeadLetters("kafka://nowhere:1/letters")
    letters.add("features", bad(1), "malformed", "")
    letters.flush()
    again = DeadLetters("kafka://nowhere:1/letters")
    again.restore(letters.state(), {"features": {1: 2}})
    down.down = False
    again.flush()
    assert [key for key, _, _ in down.records] == [b"features/1/1"]


def test_waiting_letters_are_bounded_and_the_lost_ones_counted(down, monkeypatch):
    monkeypatch.setattr(deadletters, "MAX_WAITING", 3)
    letters = DeadLetters("kafka://nowhere:1/letters")
    for offset in range(5):
        letters.add("features", bad(offset), "malformed", "")
    assert letters.lost == 2
    down.down = False
    letters.flush()
    assert [key for key, _, _ in down.records] == [b"features/1/2", b"features/1/3", b"features/1/4"]


def test_url_that_is_no_sink_is_refused():
    with pytest.raises(ConfigError, match=r"parquet://x' does not name a stream here"):
        DeadLetters("parquet://x")


def test_bytes_that_are_no_letter_are_refused():
    with pytest.raises(CorruptError):
        decode_letter(b"\xc1")


def test_letter_of_another_version_is_refused(url):
    letters = DeadLetters(url)
    letters.add("features", bad(3), "malformed", "no map")
    letters.flush()
    (record,) = open_source(url).poll(10, 0.0)
    with pytest.raises(VersionError, match="version 2"):
        decode_letter(record.value.replace(b"\xa1v\x01", b"\xa1v\x02"))


def test_detail_and_log_line_are_bounded_whatever_a_caller_gives(url, caplog):
    letters = DeadLetters(url)
    letters.add("features", bad(1, b"v" * 10), "malformed", "x\n" * 2**21)
    letters.flush()
    (record,) = open_source(url).poll(10, 0.0)
    assert len(decode_letter(record.value).detail) <= 600
    assert len(record.value) < 1000
    (logged,) = [line for line in caplog.text.splitlines() if "dead letter reason=" in line]
    assert len(logged) < 1000


def test_letters_that_wait_are_bounded_in_bytes_too(down, monkeypatch):
    monkeypatch.setattr(deadletters, "MAX_WAITING_BYTES", 1000)
    letters = DeadLetters("kafka://nowhere:1/letters")
    for offset in range(20):
        letters.add("features", bad(offset, b"v" * 297), "malformed", "")
    assert letters.lost == 17
    again = DeadLetters("kafka://nowhere:1/letters")
    again.restore(letters.state(), {"features": {1: 20}})
    again.add("features", bad(20, b"v" * 5000), "malformed", "")
    assert again.lost == 20
    down.down = False
    again.flush()
    assert [key for key, _, _ in down.records] == [b"features/1/20"]
    again.add("features", bad(21, b"v" * 900), "malformed", "")
    assert again.lost == 20


class SmallSink(DownSink):
    """Takes no record above 100 kB, as a Kafka topic has a limit."""

    def append(self, records) -> None:
        if any(len(value) > 100_000 for _, value, _ in records):
            raise InputError("a record is too large; nothing was written")
        self.records += records


def test_letter_that_is_too_large_for_the_sink_is_shortened_and_holds_up_no_other(monkeypatch, caplog):
    sink = SmallSink()
    monkeypatch.setattr(deadletters, "open_sink", lambda _: sink)
    letters = DeadLetters("kafka://nowhere:1/letters")
    for offset, size in enumerate([10, 2**20, 20]):
        letters.add("features", bad(offset, b"v" * size), "malformed", "why")
    letters.flush()
    kept = [decode_letter(value) for _, value, _ in sink.records]
    assert [letter.offset for letter in kept] == [0, 1, 2]
    assert [len(letter.value) for letter in kept] == [10, 32 * 1024, 20]
    assert kept[1].detail == "why; too large a letter: the record has 3 bytes of key, 1048576 of value"
    assert "features/1/1 is shortened" in caplog.text
    assert letters.lost == 0
