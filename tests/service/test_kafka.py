"""`kafka://` against a real broker: positions, loss, a broker that dies, a topic as a sink."""

from __future__ import annotations

import time

import pytest

from monolith.errors import ConfigError, DataLossError
from monolith.streaming.source import open_sink, open_source

pytestmark = pytest.mark.service


def rows(start: int, stop: int) -> list[tuple[bytes, bytes, int]]:
    return [(b"k%d" % n, b"v%d" % n, 1_000_000 + n) for n in range(start, stop)]


def append(url: str, start: int, stop: int) -> None:
    sink = open_sink(url)
    sink.append(rows(start, stop))
    sink.close()


def read(source, count: int, timeout_s: float = 30) -> list:
    """Exactly ``count`` records, or fail."""
    found, deadline = [], time.monotonic() + timeout_s
    while len(found) < count:
        found += source.poll(count - len(found), 0.2)
        assert time.monotonic() < deadline, f"{len(found)} of {count} records within {timeout_s} s"
    return found


def test_what_a_sink_appends_a_source_reads_with_key_value_and_event_time(kafka, topic):
    url = kafka.create(topic)
    append(url, 0, 50)
    source = open_source(url)
    got = read(source, 50)
    source.close()
    assert [(r.key, r.value, r.event_time_ms) for r in got] == rows(0, 50)
    assert [r.offset for r in got] == list(range(50))


def test_seek_reads_again_from_the_offset(kafka, topic):
    url = kafka.create(topic)
    append(url, 0, 20)
    source = open_source(url)
    read(source, 20)
    assert (source.position(), source.lag()) == ({0: 20}, 0)
    source.seek({0: 15})
    assert [r.offset for r in read(source, 5)] == [15, 16, 17, 18, 19]
    source.close()


def test_all_partitions_are_read_and_may_be_left_out(kafka, topic):
    url = kafka.create(topic, partitions=4)
    append(url, 0, 200)
    source = open_source(url)
    assert source.partitions() == [0, 1, 2, 3]
    some = read(source, 1, 10) + source.poll(500, 0.5, partitions=[0])
    rest = read(source, 200 - len(some))
    assert sorted(r.value for r in some + rest) == sorted(value for _, value, _ in rows(0, 200))
    source.close()


def test_a_reader_outlives_its_broker(own_kafka, topic):
    url = own_kafka.create(topic)
    append(url, 0, 10)
    source = open_source(url, wait=True)
    read(source, 10)
    own_kafka.kill()
    assert source.poll(10, 0.2) == []
    own_kafka.start()
    append(url, 10, 20)
    assert [r.offset for r in read(source, 10, 60)] == list(range(10, 20))
    source.close()


def test_a_reader_may_be_there_before_broker_and_topic(own_kafka, topic, caplog):
    own_kafka.kill()
    source = open_source(own_kafka.url(topic), wait=True)
    assert source.partitions() == []
    assert "does not answer" in caplog.text
    own_kafka.start()
    append(own_kafka.create(topic), 0, 3)
    assert len(read(source, 3, 60)) == 3
    source.close()


def test_a_missing_topic_is_an_error_where_nothing_is_waited_for(kafka, topic):
    with pytest.raises(ConfigError, match="no such topic"):
        open_source(kafka.url(topic))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_lost_offset_stops_or_is_skipped_and_counted(kafka, topic, policy):
    from kafka import KafkaAdminClient, TopicPartition

    url = kafka.create(topic)
    append(url, 0, 30)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.delete_records({TopicPartition(topic, 0): 12})
    admin.close()
    source = open_source(url, on_data_loss=policy)
    source.seek({0: 5})
    if policy == "stop":
        with pytest.raises(DataLossError, match="offset 5 is gone, the broker has 12 to 30"):
            read(source, 1)
    else:
        assert [r.offset for r in read(source, 18)] == list(range(12, 30))
        assert source.skipped == 7
    source.close()


def test_committed_offsets_are_those_of_the_last_snapshot_for_lag_tools(kafka, topic):
    from kafka import KafkaConsumer, TopicPartition

    url = kafka.create(topic)
    append(url, 0, 10)
    source = open_source(url, group="monolith-test")
    read(source, 10)
    looker = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id="monolith-test", enable_auto_commit=False)
    deadline = time.monotonic() + 30
    while looker.committed(TopicPartition(topic, 0)) != 7:
        source.commit({0: 7})  # as every snapshot does; the broker's first group takes its time
        source.poll(1, 0.1)
        assert time.monotonic() < deadline
    looker.close()
    source.close()


def test_historic_events_under_time_retention_are_warned_of(kafka, topic, caplog):
    url = kafka.create(topic, retention_ms="604800000")
    append(url, 0, 1)
    assert "retention" in caplog.text
