"""``kafka://HOST:PORT[,HOST:PORT]/TOPIC`` as source and sink.

The source reads all partitions of the topic, whatever other consumers do: it is assigned, not subscribed. It stands
where it is told to and reads committed records only. `KafkaSource.commit` sets the offsets of the group named after the
job, for lag tools; nothing here reads them. A broker that is away, and a topic to come, are waited for and said, never
raised.

Options: ``partitions=N`` lets the sink create the topic where there is none, with ``replication=N`` and
``retention_ms=N`` (-1: for ever). A record's time of ingestion is the broker's stamp if the topic has LogAppendTime,
else the record's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from monolith.errors import ConfigError, DataLossError, InputError, UnavailableError
from monolith.events import Record
from monolith.streaming.kafka_topics import KafkaPlace, create_topic, retention_of, warn_of_retention
from monolith.streaming.source import OnDataLoss, Outgoing, StreamUrl
from monolith.streaming.waiting import Waiting

log = logging.getLogger(__name__)

KAFKA_OPTIONS = ("partitions", "replication", "retention_ms")
_RETRY_S = 0.5  # between attempts to connect
_SILENCE_S = 2.0  # without a record for this long, ask the broker whether it is there
_ASK_MS = 1000
_DELIVERY_MS = 30_000  # after that an append that is not acknowledged has failed
_METADATA_MS = 30_000  # how soon added partitions are seen


def _place(url: StreamUrl) -> KafkaPlace:
    url.check_options(KAFKA_OPTIONS)
    servers, _, topic = url.place.partition("/")
    if not servers or not topic or "/" in topic:
        raise ConfigError(f"{url.text}: write kafka://HOST:PORT/TOPIC")
    return KafkaPlace(servers.split(","), topic)


class KafkaSource:
    """Reads a topic. One thread at a time."""

    def __init__(
        self, url: StreamUrl, *, wait: bool = False, on_data_loss: OnDataLoss = "stop", group: str | None = None
    ) -> None:
        """Connect if the broker is there. Raises ConfigError for a topic that does not exist, unless ``wait``."""
        self.name = url.name
        self.bounded = False
        self.skipped = 0
        self._place = _place(url)
        self._wait = wait
        self._skip = on_data_loss == "skip"
        self._group = group
        self._consumer: Any = None
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._paused: set[int] = set()
        self._next_try = 0.0
        self._heard_at = 0.0
        self._warned = False
        self._waiting = Waiting(self.name, "the broker does not answer")
        self._ready()

    # --- coming and going of the broker -------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Whether there are partitions to read; tries to get there if it is time."""
        if self._positions:
            return True
        if time.monotonic() < self._next_try:
            return False
        try:
            if self._consumer is None:
                self._consumer = self._connect()
            return self._assign()
        except KafkaError as error:
            self._waiting.say(f"the broker does not answer ({type(error).__name__})")
            return False
        finally:
            self._next_try = time.monotonic() + _RETRY_S

    def _connect(self) -> Any:
        return KafkaConsumer(
            **self._place.connection(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            metadata_max_age_ms=_METADATA_MS,
        )

    def _assign(self) -> bool:
        """Take all partitions of the topic, each at its wanted offset or its beginning."""
        names = self._consumer.partitions_for_topic(self._place.topic)
        if not names:
            if not self._wait:
                raise ConfigError(
                    f"{self.name}: there is no such topic; create it, or let the job wait (input.follow: true)"
                )
            self._waiting.say("the topic does not exist yet; create it, or let its producer do so")
            return False
        topics = [self._topic(partition) for partition in sorted(names)]
        begins = self._consumer.beginning_offsets(topics, timeout_ms=_ASK_MS)
        ends = self._consumer.end_offsets(topics, timeout_ms=_ASK_MS)
        self._consumer.assign(topics)
        for topic in topics:
            known = self._positions.get(topic.partition, self._wanted.get(topic.partition, begins[topic]))
            self._positions[topic.partition] = known
            self._ends[topic.partition] = ends[topic]
            self._consumer.seek(topic, known)
        self._paused = set()
        self._heard_at = time.monotonic()
        self._waiting.over()
        self._warn_of_emptied(begins, ends)
        return True

    def _topic(self, partition: int) -> Any:
        return TopicPartition(self._place.topic, partition)

    def _warn_of_emptied(self, begins: Mapping[Any, int], ends: Mapping[Any, int]) -> None:
        gone = sum(ends[topic] for topic in ends)
        if not gone or any(begins[topic] != ends[topic] for topic in ends):
            return
        retention = retention_of(self._place)
        if retention is not None and retention.max_age_ms is not None and retention.by_event_time:
            log.warning(
                "topic %s is empty, but held %d records: it keeps them for %d ms by event time; set retention.ms=-1 or "
                "message.timestamp.type=LogAppendTime if they were historic",
                self._place.topic,
                gone,
                retention.max_age_ms,
            )

    def _ask_after_silence(self) -> None:
        """Tell a quiet topic from a broker that is away."""
        if time.monotonic() < self._heard_at + _SILENCE_S:
            return
        topics = [self._topic(partition) for partition in self._positions]
        try:
            ends = self._consumer.end_offsets(topics, timeout_ms=_ASK_MS)
        except KafkaError as error:
            self._waiting.say(f"the broker does not answer ({type(error).__name__})")
            return
        self._ends |= {topic.partition: end for topic, end in ends.items()}
        self._heard_at = time.monotonic()
        self._waiting.over()

    # --- Source -------------------------------------------------------------------------------------------------------

    def partitions(self) -> list[int]:
        """See `Source`."""
        if self._ready():
            names = self._consumer.partitions_for_topic(self._place.topic)  # from memory; refreshed in the background
            if names and len(names) > len(self._positions):
                try:
                    self._assign()
                except KafkaError as error:
                    log.warning("new partitions of %s are not read yet: %s", self.name, error)
        return sorted(self._positions)

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Source`."""
        if not self._ready():
            time.sleep(timeout_s)
            return []
        self._pause_all_but(partitions)
        try:
            batches = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._on_loss(error)
            return []
        except KafkaError as error:
            if not error.retriable:
                raise UnavailableError(f"{self.name} cannot be read: {error!r}") from error
            batches = {}
        records = [_record(row) for rows in batches.values() for row in rows]
        self._note(records)
        return records

    def _pause_all_but(self, partitions: Collection[int] | None) -> None:
        paused = set() if partitions is None else self._positions.keys() - set(partitions)
        if resume := self._paused - paused:
            self._consumer.resume(*map(self._topic, resume))
        if pause := paused - self._paused:
            self._consumer.pause(*map(self._topic, pause))
        self._paused = paused

    def _note(self, records: list[Record]) -> None:
        """Positions and ends after a poll."""
        for record in records:
            self._positions[record.partition] = record.offset + 1
        for partition, position in self._positions.items():
            topic = self._topic(partition)
            end = self._consumer.highwater(topic)
            if end is not None:
                self._ends[partition] = end
            if position < self._ends[partition]:  # transaction markers count as offsets, but are no records
                self._positions[partition] = self._consumer.position(topic, timeout_ms=0) or position
        if not records:
            self._ask_after_silence()
            return
        self._heard_at = time.monotonic()
        self._waiting.over()
        if not self._warned:
            self._warned = True
            warn_of_retention(self._place, min(record.event_time_ms for record in records))

    def _on_loss(self, error: Exception) -> None:
        """The next offset of some partition is gone: go to the earliest that is there, if that is the policy."""
        topics = [self._topic(partition) for partition in self._positions]
        begins = self._consumer.beginning_offsets(topics)
        ends = self._consumer.end_offsets(topics)
        lost = [t for t in topics if not begins[t] <= self._positions[t.partition] <= ends[t]]
        if isinstance(error, LogTruncationError):
            lost = list(error.divergent_offsets)
        for topic in lost:
            position, begin = self._positions[topic.partition], begins[topic]
            text = (
                f"{self.name}, partition {topic.partition}: offset {position} is gone, the broker has {begin} to "
                f"{ends[topic]}"
            )
            if not self._skip:
                raise DataLossError(f"{text}; on_data_loss: skip goes on at {begin}") from error
            log.warning("data loss, going on at the earliest: %s", text)
            self.skipped += max(0, begin - position)
            self.seek({topic.partition: begin})

    def position(self) -> dict[int, int]:
        """See `Source`."""
        return dict(self._positions)

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._wanted.update(positions)
        for partition, offset in positions.items():
            if partition in self._positions:
                self._positions[partition] = offset
                self._consumer.seek(self._topic(partition), offset)

    def end_position(self) -> dict[int, int]:
        """See `Source`; as of the newest answer of the broker."""
        return dict(self._ends)

    def lag(self) -> int:
        """See `Source`; markers of transactions count."""
        return sum(max(0, end - self._positions[partition]) for partition, end in self._ends.items())

    def commit(self, positions: Mapping[int, int]) -> None:
        """See `Source`. Goes out in the background; a failure is logged, and the next commit makes up for it."""
        if self._group is None or not self._positions:
            return
        offsets = {self._topic(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in positions.items()}
        self._consumer.commit_async(offsets, callback=self._committed)

    def _committed(self, _offsets: object, answer: object) -> None:
        if isinstance(answer, Exception):
            log.warning("offsets not committed group=%s source=%s: %r", self._group, self.name, answer)

    def close(self) -> None:
        """See `Source`."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            self._positions = {}
            self._next_try = float("inf")
            consumer.close(autocommit=False, timeout_ms=_ASK_MS)


def _record(row: Any) -> Record:
    """A consumer's row: its timestamp is the producer's or, with LogAppendTime, the broker's."""
    return Record(row.key, row.value, row.timestamp, row.timestamp, row.partition, row.offset)


class KafkaSink:
    """Appends to a topic: acknowledged by all in-sync replicas, and once each while one producer lives (idempotent)."""

    def __init__(self, url: StreamUrl) -> None:
        """Raises ConfigError for a bad URL. The broker is not asked before the first append."""
        self.name = url.name
        self._url = url
        self._place = _place(url)
        self._producer: Any = None
        self._warned = False

    def append(self, records: Sequence[Outgoing]) -> None:
        """See `Sink`. After an UnavailableError some of ``records`` may be there: appending again may repeat them."""
        if any(key is None and value is None for key, value, _ in records):
            raise InputError(f"{self.name}: Kafka takes no record that has neither key nor value")
        try:
            producer = self._connected()
            sent = [
                producer.send(self._place.topic, key=key, value=value, timestamp_ms=event_time_ms)
                for key, value, event_time_ms in records
            ]
            producer.flush(timeout=_DELIVERY_MS / 1000)
            for future in sent:
                future.get(timeout=1)
        except KafkaError as error:
            self._drop_producer()
            raise UnavailableError(
                f"{self.name}: {len(records)} records are not all known to be written: {error!r}; is the broker there?"
            ) from error
        if records and not self._warned:
            self._warned = True
            warn_of_retention(self._place, min(event_time_ms for _, _, event_time_ms in records))

    def _connected(self) -> Any:
        if self._producer is None:
            partitions = self._url.number("partitions", least=1)
            if partitions is not None:
                create_topic(self._place, self._url, int(partitions))
            self._producer = KafkaProducer(
                **self._place.connection(),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                max_block_ms=_DELIVERY_MS,
                delivery_timeout_ms=_DELIVERY_MS,
            )
        return self._producer

    def _drop_producer(self) -> None:
        """A producer that failed may still hold records; the next append starts anew."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=0)

    def close(self) -> None:
        """See `Sink`."""
        if self._producer is not None:
            self._producer.close(timeout=_DELIVERY_MS / 1000)
            self._producer = None
