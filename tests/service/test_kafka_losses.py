"""`kafka://` against a real broker that loses what is asked for: a typed error, or a way on; never the client's own."""

from __future__ import annotations

import time

import pytest

from monolith.errors import DataLossError, InputError
from monolith.events import Record
from monolith.streaming.deadletters import DeadLetters, decode_letter
from monolith.streaming.source import open_sink, open_source

pytestmark = pytest.mark.service


def until(condition, timeout_s: float = 60.0):
    """The first true value of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
    return value


def append(url: str, values: list[bytes]) -> None:
    sink = open_sink(url)
    sink.append([(b"k", value, 1_000) for value in values])
    sink.close()


def administer(kafka, work):
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        return work(admin)
    finally:
        admin.close()


def make_anew(kafka, topic: str, partitions: int) -> None:
    """Delete the topic and create it again, as soon as the broker lets us."""
    from kafka.errors import KafkaError

    administer(kafka, lambda admin: admin.delete_topics([topic]))

    def made() -> bool:
        try:
            kafka.create(topic, partitions=partitions)
        except KafkaError:  # the old one is still there
            return False
        return True

    until(made)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_broker_that_dies_when_it_is_asked_what_is_left_is_waited_for(own_kafka, topic, policy):
    url = own_kafka.create(topic)
    append(url, [b"%d" % n for n in range(30)])
    source = open_source(url, on_data_loss=policy)
    source.seek({0: 50})
    asked = source._consumer.beginning_offsets

    def ask_in_vain(*args, **options):
        source._consumer.beginning_offsets = asked
        own_kafka.kill()
        return asked(*args, **options)

    source._consumer.beginning_offsets = ask_in_vain
    until(lambda: source.poll(10, 0.2) == [] and source._consumer.beginning_offsets is asked)
    assert source.poll(10, 0.2) == []
    own_kafka.start()
    if policy == "stop":
        with pytest.raises(DataLossError, match=r"offset 50 is gone, the broker has 0 to 30; on_data_loss: skip"):
            until(lambda: source.poll(10, 0.2))
    else:
        assert until(lambda: source.poll(10, 0.2))[0].offset == 0
    source.close()


@pytest.fixture
def quick_metadata(monkeypatch):
    monkeypatch.setattr("monolith.streaming.kafka._METADATA_MS", 500)


def test_partition_that_is_gone_is_a_data_loss(kafka, topic, quick_metadata):
    source = open_source(kafka.create(topic, partitions=3))
    assert source.partitions() == [0, 1, 2]
    make_anew(kafka, topic, partitions=2)
    with pytest.raises(
        DataLossError, match=r"the topic was made anew|partition 2: it is gone .* offset 0; was the topic made anew\?"
    ):
        until(lambda: source.poll(10, 0.1) or not source.partitions())
    source.close()


def test_partition_that_is_gone_is_at_its_end_where_losses_are_skipped(kafka, topic, quick_metadata, caplog):
    url = kafka.create(topic, partitions=3)
    append(url, [b"old"] * 5)
    source = open_source(url, on_data_loss="skip")
    until(lambda: source.poll(10, 0.1) and source.lag() == 0)
    make_anew(kafka, topic, partitions=1)
    until(lambda: source.poll(10, 0.1, source.partitions()) == [] and "without the partition" in caplog.text)
    append(url, [b"new"] * 3)
    found: list[Record] = []
    until(lambda: found.extend(source.poll(10, 0.1, source.partitions())) or len(found) == 3)
    assert [record.value for record in found] == [b"new"] * 3
    ends, positions = source.end_position(), source.position()
    assert {name: ends[name] for name in (1, 2)} == {name: positions[name] for name in (1, 2)}
    source.close()


@pytest.mark.parametrize("count", [1, 9])
def test_topic_that_was_made_anew_is_a_data_loss_however_many_records_it_has(kafka, topic, quick_metadata, count):
    url = kafka.create(topic)
    append(url, [b"old"] * 5)
    source = open_source(url)
    until(lambda: source.poll(10, 0.1) and source.lag() == 0)
    make_anew(kafka, topic, partitions=1)
    append(url, [b"new"] * count)
    with pytest.raises(
        DataLossError, match=r"the topic was made anew, its id was .*on_data_loss: skip reads all of it"
    ):
        until(lambda: source.poll(10, 0.1))
    source.close()


@pytest.mark.parametrize("count", [1, 9])
def test_topic_that_was_made_anew_is_read_from_its_beginning_where_losses_are_skipped(
    kafka, topic, quick_metadata, count
):
    url = kafka.create(topic)
    append(url, [b"old"] * 5)
    source = open_source(url, on_data_loss="skip")
    until(lambda: source.poll(10, 0.1) and source.lag() == 0)
    make_anew(kafka, topic, partitions=1)
    append(url, [b"new %d" % n for n in range(count)])
    found: list[Record] = []
    until(lambda: found.extend(source.poll(10, 0.1)) or len(found) >= count)
    assert [record.value for record in found] == [b"new %d" % n for n in range(count)]
    source.close()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_topic_that_was_made_anew_while_nobody_read_is_told_from_the_one_that_was(kafka, topic, policy):
    url = kafka.create(topic)
    append(url, [b"old"] * 5)
    before = open_source(url)
    mark = before.mark()
    before.close()
    make_anew(kafka, topic, partitions=1)
    append(url, [b"new %d" % n for n in range(9)])
    source = open_source(url, on_data_loss=policy)
    if policy == "stop":
        with pytest.raises(DataLossError, match="the topic was made anew"):
            source.expect(mark)
    else:
        source.expect(mark)
        source.seek({0: 5})
        assert until(lambda: source.poll(10, 0.1))[0].value == b"new 0"
        assert source.mark() != mark
    source.close()


def test_topic_that_is_the_same_goes_on_where_it_is_told_to(kafka, topic):
    url = kafka.create(topic)
    append(url, [b"%d" % n for n in range(5)])
    first = open_source(url)
    mark = first.mark()
    first.close()
    source = open_source(url)
    source.expect(mark)
    source.seek({0: 3})
    assert until(lambda: source.poll(10, 0.1))[0].value == b"3"
    source.close()


def test_topic_that_is_gone_is_waited_for_and_said(kafka, topic, quick_metadata, caplog):
    source = open_source(kafka.create(topic))
    assert source.partitions() == [0]
    administer(kafka, lambda admin: admin.delete_topics([topic]))
    until(lambda: source.poll(10, 0.1) == [] and source.partitions() == [0] and "waiting for" in caplog.text)
    source.close()


def test_record_that_is_too_large_for_kafka_is_refused_before_any_is_written(kafka, topic):
    url = kafka.create(topic)
    sink = open_sink(url)
    with pytest.raises(InputError, match=r"record 1 takes 2\d{6} bytes, .*1048576 at most; nothing was written"):
        sink.append([(b"k", b"small", 1), (b"k", bytes(2**21), 1)])
    sink.append([(b"k", b"next", 1)])
    sink.close()
    source = open_source(url)
    assert [record.value for record in until(lambda: source.poll(10, 0.2))] == [b"next"]
    source.close()


def test_letter_of_a_record_that_is_too_large_for_the_topic_is_shortened(kafka, topic):
    url = kafka.create(topic, max_message_bytes="60000")
    letters = DeadLetters(url)
    for offset, size in enumerate((10, 55_000, 1_000_000)):
        letters.add("features", Record(b"k", b"v" * size, 5, 6, 0, offset), "malformed", "why")
    letters.flush()
    letters.close()
    assert letters.lost == 0
    source, found = open_source(url), {}
    until(lambda: found.update({r.key: r.value for r in source.poll(10, 0.2)}) or len(found) == 3)
    kept = [decode_letter(found[b"features/0/%d" % offset]) for offset in range(3)]
    assert [len(letter.value) for letter in kept] == [10, 55_000, 32 * 1024]
    assert "1000000 of value" in kept[2].detail
    source.close()
