"""`kafka://` against a real broker: transactions, topics that grow or are made by the sink, a broker that dies."""

from __future__ import annotations

import time

import pytest
from batches import seen, told

from monolith.config import InputConfig, JobConfig, JoinConfig, TableConfig, TrainConfig
from monolith.errors import ConfigError, InputError, UnavailableError
from monolith.events import ActionEvent, FeatureEvent
from monolith.streaming.codec import encode
from monolith.streaming.kafka_place import place_of
from monolith.streaming.kafka_topics import retention_of
from monolith.streaming.source import open_sink, open_source, parse_url
from monolith.streaming.steps import StepReader

pytestmark = pytest.mark.service


def until(condition, timeout_s: float = 60.0):
    """The first true value of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
    return value


def poll_until(source, count: int) -> list:
    found = []
    until(lambda: found.extend(source.poll(1000, 0.2)) or len(found) >= count)
    return found


def test_aborted_records_are_never_seen_and_markers_are_passed_over(kafka, topic):
    from kafka import KafkaProducer

    url = kafka.create(topic)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic)
    producer.init_transactions()
    for value, ends_well in ((b"one", True), (b"never", False), (b"two", True), (b"nor this", False)):
        producer.begin_transaction()
        producer.send(topic, value).get(timeout=30)
        producer.commit_transaction() if ends_well else producer.abort_transaction()
    producer.close()
    source = open_source(url)
    assert [record.value for record in poll_until(source, 2)] == [b"one", b"two"]
    until(lambda: source.poll(10, 0.1) == [] and source.lag() == 0)
    assert source.position() == source.end_position() == {0: 8}
    source.close()


def test_open_transaction_hides_its_records_until_it_ends(kafka, topic):
    from kafka import KafkaProducer

    url = kafka.create(topic)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"later").get(timeout=30)
    source = open_source(url)
    assert source.poll(10, 1.0) == []
    producer.commit_transaction()
    assert [record.value for record in poll_until(source, 1)] == [b"later"]
    producer.close()
    source.close()


def test_sink_makes_the_topic_that_its_url_describes(kafka, topic):
    url = f"{kafka.url(topic)}?partitions=3&retention_ms=-1"
    sink = open_sink(url)
    sink.append([(b"k%d" % n, b"v", 1000 + n) for n in range(60)])  # event times of 1970 stay
    sink.close()
    source = open_source(url)
    assert source.partitions() == [0, 1, 2]
    assert len(poll_until(source, 60)) == 60
    source.close()


@pytest.mark.parametrize("option", ["retention_ms=-1", "replication=1"])
def test_any_option_lets_the_sink_make_the_topic(kafka, topic, option):
    url = f"{kafka.url(topic)}?{option}"
    sink = open_sink(url)
    sink.append([(b"k", b"v", time.time_ns() // 1_000_000)])
    sink.close()
    source = open_source(url)
    assert source.partitions() == [0]
    assert [record.value for record in poll_until(source, 1)] == [b"v"]
    source.close()
    found = retention_of(place_of(parse_url(url)))
    assert found is not None
    assert (found.max_age_ms is None) == option.startswith("retention_ms")


def test_partitions_that_are_added_are_read(kafka, topic, monkeypatch):
    from kafka import KafkaAdminClient

    monkeypatch.setattr("monolith.streaming.kafka._METADATA_MS", 500)
    url = kafka.create(topic)
    source = open_source(url)
    assert source.partitions() == [0]
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_partitions({topic: 2})
    admin.close()
    until(lambda: source.poll(10, 0.1) == [] and source.partitions() == [0, 1])
    sink = open_sink(url)
    sink.append([(b"k%d" % n, b"v", 1000) for n in range(40)])
    sink.close()
    assert {record.partition for record in poll_until(source, 40)} == {0, 1}
    source.close()


def test_ingestion_is_the_brokers_stamp_where_the_topic_has_it(kafka, topic):
    url = kafka.create(topic, message_timestamp_type="LogAppendTime")
    before_ms = time.time_ns() // 1_000_000
    sink = open_sink(url)
    sink.append([(b"k", b"v", 1000)])
    sink.close()
    source = open_source(url)
    (record,) = poll_until(source, 1)
    assert abs(record.ingestion_time_ms - before_ms) < 60_000
    source.close()


def test_sink_without_a_broker_says_so(topic):
    sink = open_sink(f"kafka://127.0.0.1:1/{topic}")
    with pytest.raises(UnavailableError, match="not all known to be written"):
        sink.append([(b"k", b"v", 1)])
    with pytest.raises(InputError, match="neither key nor value"):
        sink.append([(None, None, 1)])
    with pytest.raises(InputError, match="record 1: its value is 'text', allowed: bytes or None"):
        sink.append([(b"k", b"v", 1), (b"k", "text", 1)])
    sink.close()


def job_over(urls: tuple[str, str], **input_changes) -> JobConfig:
    return JobConfig(
        name="job",
        input=InputConfig(**{"features": urls[0], "actions": urls[1], "idle_s": 0.2, **input_changes}),
        join=JoinConfig(window_s=10.0, dedup_s=60.0),
        train=TrainConfig(step_records=20, step_linger_s=0.01),
        tables=[TableConfig(name="user", dim=4)],
    )


def produce(urls: tuple[str, str], start: int, stop: int) -> None:
    features, actions = open_sink(urls[0]), open_sink(urls[1])
    rows = [(n, b"r%d" % n, 1_000_000 + 1000 * n) for n in range(start, stop)]
    features.append([(key, encode(FeatureEvent(f"r{n}", "i", t, {"user": n})), t) for n, key, t in rows])
    actions.append([(key, encode(ActionEvent(f"r{n}", "i", "click", t + 5)), t) for n, key, t in rows if n % 2])
    for sink in (features, actions):
        sink.close()


def test_job_over_a_broker_that_dies_repeats_bit_for_bit(own_kafka, topic, tmp_path):
    urls = (own_kafka.create(f"{topic}-f", partitions=2), own_kafka.create(f"{topic}-a", partitions=2))
    produce(urls, 0, 100)
    steps, states = [], []

    def advance(reader) -> int:
        if (step := reader.next(0.2)) is not None:
            steps.append(step)
            states.append(reader.state())
        return sum(step.records for step in steps)

    with StepReader.open(job_over(urls), tmp_path / "journal") as reader:
        until(lambda: advance(reader) >= 60)
        own_kafka.kill()
        advance(reader)  # what was polled before may still be cut; nothing is raised
        own_kafka.start()
        produce(urls, 100, 150)
        until(lambda: advance(reader) >= 225)
        reader.commit()
    recorded = len(steps)
    assert recorded > 5
    with StepReader.open(job_over(urls), tmp_path / "journal") as reader:
        reader.restore(states[2])
        for step, state in zip(steps[3:], states[3:], strict=True):
            assert told(until(lambda: reader.next(1.0))) == told(step)
            assert reader.state() == state


def test_job_that_does_not_follow_ends_at_the_end_that_the_topics_had(kafka, topic, tmp_path):
    urls = (kafka.create(f"{topic}-f"), kafka.create(f"{topic}-a"))
    produce(urls, 0, 50)
    with StepReader.open(job_over(urls, follow=False), tmp_path / "journal") as reader:
        steps = [until(lambda: reader.next(1.0))]
        produce(urls, 50, 60)
        while not steps[-1].ended:
            steps.append(until(lambda: reader.next(1.0)))
        labels = [sample.label for step in steps for sample in seen(step)]
    assert (len(labels), sum(labels)) == (50, 25)


def test_partition_that_is_not_asked_for_waits_unfetched_and_loses_nothing(kafka, topic, monkeypatch):
    monkeypatch.setattr("monolith.streaming.kafka._AHEAD_BYTES", 50)
    url = kafka.create(topic, partitions=2)
    sink = open_sink(url)
    sink.append([(b"k%d" % n, b"value-%03d" % n, 1000) for n in range(300)])
    sink.close()
    source = open_source(url)
    found = []

    def alternate() -> bool:
        for partition in (0, 1):
            found.extend(source.poll(7, 0.1, [partition]))
        return source.lag() == 0

    until(alternate)
    assert sorted(record.value for record in found) == [b"value-%03d" % n for n in range(300)]
    for partition in (0, 1):
        offsets = [record.offset for record in found if record.partition == partition]
        assert offsets == list(range(len(offsets)))
    source.close()


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy"])
def test_records_of_every_codec_are_read(kafka, topic, codec):
    pytest.importorskip({"zstd": "zstandard"}.get(codec, codec))
    url = kafka.create(topic, compression_type=codec)  # the broker compresses what comes
    sink = open_sink(url)
    sink.append([(b"k", b"value" * 100, 1_000)] * 3)
    sink.close()
    source = open_source(url)
    assert [record.value for record in poll_until(source, 3)] == [b"value" * 100] * 3
    source.close()


def test_codec_without_its_library_is_named_with_what_to_install(kafka, topic, monkeypatch):
    monkeypatch.setattr("kafka.codec.snappy", None)
    url = kafka.create(topic, compression_type="snappy")
    sink = open_sink(url)
    sink.append([(b"k", b"value", 1_000)])
    sink.close()
    source = open_source(url)
    with pytest.raises(ConfigError, match=r"compressed records .*snappy.*python-snappy"):
        poll_until(source, 1)
    source.close()
