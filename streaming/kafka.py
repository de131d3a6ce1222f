"""``kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]/TOPIC`` as source and sink.

The source reads all partitions of the topic, whatever other consumers do: it is assigned, not subscribed. It stands
where it is told to and reads committed records only. `KafkaSource.commit` sets the offsets of the group named after the
job, for lag tools; nothing here reads them. A broker that is away, and a topic to come, are waited for and said, never
raised. Records and partitions that are gone are a DataLossError, or skipped, as `on_data_loss` says. No error of the
Kafka client leaves this module as such.

Options: ``partitions=N`` (1), ``replication=N`` (the broker's default) and ``retention_ms=N`` (-1: for ever). With any
of them the sink creates the topic where there is none. `kafka_place` has those for security. A record's time of
ingestion is the broker's stamp if the topic has LogAppendTime, else the record's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata

from monolith.errors import ConfigError, DataLossError, UnavailableError
from monolith.events import Record
from monolith.streaming.kafka_partition import Fetched, record_of
from monolith.streaming.kafka_place import in_words, place_of, reason_of
from monolith.streaming.kafka_topics import warn_of_emptied, warn_of_retention
from monolith.streaming.source import OnDataLoss, StreamUrl
from monolith.streaming.waiting import Waiting

log = logging.getLogger(__name__)

_RETRY_S = 0.5  # between attempts to connect
_SILENCE_S = 2.0  # without a record for this long, ask the broker whether it is there
_ASK_MS = 1000
_METADATA_MS = 30_000  # how soon added partitions are seen
_AHEAD_BYTES = 4 * 2**20  # fetched of a partition that nobody asks for; above it, it is not fetched


class KafkaSource:
    """Reads a topic. One thread at a time."""

    def __init__(
        self,
        url: StreamUrl,
        *,
        wait: bool = False,
        on_data_loss: OnDataLoss = "stop",
        group: str | None = None,
        owns: Callable[[int], bool] | None = None,
    ) -> None:
        """Connect if the broker is there. Raises ConfigError for a topic that does not exist, unless ``wait``.

        ``owns``: the partitions that are polled here, and that alone are fetched; None: all.
        """
        self.name = url.name
        self.bounded = False
        self.skipped = 0
        self._place = place_of(url)
        self._wait = wait
        self._skip = on_data_loss == "skip"
        self._group = group
        self._owns = owns or (lambda _: True)
        self._consumer: Any = None
        self._partitions: dict[int, Fetched] = {}
        self._reading: set[int] = set()  # assigned to the consumer
        self._wanted: dict[int, int] = {}
        self._next_try = 0.0
        self._heard_at = 0.0
        self._warned = False
        self._loss: KafkaError | None = None  # heard of, and not settled yet
        self._known: str | None = None  # the id of the topic that is read
        self._is_other = False  # another one was found: what `seek` is told is none of its offsets
        self._waiting = Waiting(self.name, "the broker does not answer")
        self._ready()

    # --- coming and going of the broker ------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Whether there are partitions to read; tries to get there if it is time."""
        if self._partitions:
            return True
        if time.monotonic() < self._next_try:
            return False
        try:
            if self._consumer is None:
                with in_words(self._place):
                    self._consumer = self._connect()
            return self._meet_topic()
        except KafkaError as error:
            self._say(error)
            return False
        finally:
            self._next_try = time.monotonic() + _RETRY_S

    def _connect(self) -> Any:
        consumer = KafkaConsumer(
            **self._place.connection(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            metadata_max_age_ms=_METADATA_MS,
        )
        # kafka-python 3.0.12 takes the option and does not pass it on: asking for a deleted topic would make it anew.
        consumer._cluster.config["allow_auto_create_topics"] = False
        return consumer

    def _meet_topic(self) -> bool:
        """Learn the partitions that are new, each at its wanted offset or its beginning."""
        names = self._consumer.partitions_for_topic(self._place.topic)
        if not names:
            if not self._wait:
                raise ConfigError(
                    f"{self.name}: there is no such topic; create it, or let the job wait (input.follow: true)"
                )
            self._waiting.say("the topic does not exist yet; create it, or let its producer do so")
            return False
        self._know_topic()
        topics = [self._topic(partition) for partition in sorted(names) if partition not in self._partitions]
        begins = self._consumer.beginning_offsets(topics, timeout_ms=_ASK_MS)
        ends = self._consumer.end_offsets(topics, timeout_ms=_ASK_MS)
        for topic in topics:
            start = self._wanted.get(topic.partition, begins[topic])
            self._partitions[topic.partition] = Fetched(start, ends[topic])
        self._heard_at = time.monotonic()
        self._waiting.over()
        if list(begins.values()) == list(ends.values()):
            warn_of_emptied(self._place, sum(ends.values()))
        return True

    def _know_topic(self) -> bool:
        """Whether the topic turned out to be another one than that whose offsets are known; brokers before 2.8 hide it.

        Raises DataLossError for another one, unless losses are skipped; KafkaError if the broker does not say more.
        """
        told = self._consumer._cluster.topic_id(self._place.topic)
        found = str(told) if told is not None and told.int else self._known
        is_other = self._known is not None and found != self._known
        if is_other:
            self._begin_anew(f"{self.name}: the topic was made anew, its id was {self._known} and is {found}")
        self._known = found
        return is_other

    def _begin_anew(self, why: str) -> None:
        if not self._skip:
            raise DataLossError(f"{why}: offsets that were read are of the old one; on_data_loss: skip reads all of it")
        names = self._consumer.partitions_for_topic(self._place.topic) or set()
        topics = [self._topic(name) for name in self._partitions.keys() & names]
        begins = self._consumer.beginning_offsets(topics, timeout_ms=_ASK_MS) if topics else {}
        log.warning("data loss, reading the topic from its beginning: %s", why)
        self._wanted, self._is_other, self._loss = {}, True, None
        for topic, begin in begins.items():
            self._partitions[topic.partition].fetched = begin
            if topic.partition in self._reading:
                self._consumer.seek(topic, begin)

    def mark(self) -> str | None:
        """See `MarkedSource`: the topic's id, which the broker draws when it is made."""
        self._is_other = False
        return self._known

    def expect(self, mark: str) -> None:
        """See `MarkedSource`."""
        self._known = mark
        if self._partitions:
            try:
                self._know_topic()
            except KafkaError as error:  # the next fetch asks again
                self._say(error)

    def _topic(self, partition: int) -> Any:
        return TopicPartition(self._place.topic, partition)

    def _ask_after_silence(self) -> None:
        """Tell a quiet topic from a broker that is away."""
        if time.monotonic() < self._heard_at + _SILENCE_S:
            return
        topics = [self._topic(name) for name, partition in self._partitions.items() if not partition.gone]
        try:
            ends = self._consumer.end_offsets(topics, timeout_ms=_ASK_MS)
        except KafkaError as error:
            self._say(error)
            return
        for topic, end in ends.items():
            self._partitions[topic.partition].end = end
        self._heard_at = time.monotonic()
        self._waiting.over()

    def _say(self, error: KafkaError) -> None:
        known = isinstance(error, UnknownTopicOrPartitionError)
        why = "the topic is gone" if known else f"the broker does not answer ({reason_of(error)})"
        self._waiting.say(why)

    # --- reading -----------------------------------------------------------------------------------------------------

    def partitions(self) -> list[int]:
        """See `Source`. Raises DataLossError for one that the topic does not have any more."""
        if self._ready():
            try:
                names = self._consumer.partitions_for_topic(
                    self._place.topic
                )  # from memory, refreshed in the background
                if names and not names <= self._partitions.keys():
                    self._meet_topic()
            except KafkaError as error:
                names = None
                self._say(error)
            if names:
                self._part_with(self._partitions.keys() - names)
        return sorted(self._partitions)

    def _part_with(self, missing: Collection[int]) -> None:
        """The topic was made anew with fewer partitions: those that are missing have come to their end."""
        for name, partition in self._partitions.items():
            if partition.gone == (name in missing):
                continue
            text = f"{self.name}, partition {name}: it is gone with what follows on offset {partition.fetched}"
            if name in missing and not self._skip:
                raise DataLossError(f"{text}; was the topic made anew? on_data_loss: skip goes on without it")
            if name in missing:
                log.warning("data loss, going on without the partition: %s", text)
                partition.end = partition.fetched
            partition.gone = name in missing

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Source`."""
        if not self._ready():
            time.sleep(timeout_s)
            return []
        asked = sorted(self._partitions if partitions is None else partitions)
        if not any(self._partitions[partition].ready for partition in asked):
            self._fetch(max_records, timeout_s, asked)
        taken: list[Record] = []
        for partition in asked:
            taken += self._partitions[partition].take(max_records - len(taken))
        return taken

    def _fetch(self, max_records: int, timeout_s: float, asked: list[int]) -> None:
        """Get more of what is asked for, and a bounded amount of the rest.

        What is not to be fetched is unassigned: kafka-python 3.0.12 may never hand out again what it had fetched of a
        partition that was paused and resumed.
        """
        own = [(p, partition) for p, partition in self._partitions.items() if self._owns(p)]
        room = {p for p, partition in own if partition.ready_bytes < _AHEAD_BYTES}
        try:
            if self._loss is not None:
                self._settle(self._loss)
            self._read({name for name in room.union(asked) if not self._partitions[name].gone})
            batches = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
            if self._know_topic():
                return
            for rows in batches.values():
                for row in rows:
                    self._partitions[row.partition].push(record_of(row))
            self._note(came=bool(batches))
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._loss = error  # the next call settles it, or the one after, should the broker not answer
        except UnsupportedCodecError as error:
            raise ConfigError(
                f"{self.name} has compressed records that cannot be read here: {error.args[0]}. Install what the extra "
                f"`stream` has for it (lz4, zstandard, python-snappy)"
            ) from error
        except KafkaError as error:
            if not error.retriable:
                raise UnavailableError(f"{self.name} cannot be read: {error!r}") from error
            self._ask_after_silence()

    def _read(self, reading: set[int]) -> None:
        if reading == self._reading:
            return
        self._consumer.assign([self._topic(partition) for partition in sorted(reading)])
        for partition in reading - self._reading:
            self._consumer.seek(self._topic(partition), self._partitions[partition].fetched)
        self._reading = reading

    def _note(self, *, came: bool) -> None:
        """Ends, and offsets that are no records, after a fetch."""
        for name in self._reading:
            topic, partition = self._topic(name), self._partitions[name]
            end = self._consumer.highwater(topic)
            partition.end = partition.end if end is None else end
            if not partition.ready and partition.fetched < partition.end:  # markers of transactions count as offsets
                partition.fetched = self._consumer.position(topic, timeout_ms=0) or partition.fetched
        if not came:
            self._ask_after_silence()
            return
        self._heard_at = time.monotonic()
        self._waiting.over()
        if not self._warned:
            self._warned = True
            times = [partition.ready[0].event_time_ms for partition in self._partitions.values() if partition.ready]
            warn_of_retention(self._place, min(times))

    def _settle(self, loss: KafkaError) -> None:
        """The next offset of some partition is gone: go to the earliest that is there, if that is the policy.

        Raises KafkaError if the broker does not say what it has; ``loss`` is then still to be settled.
        """
        if self._know_topic():
            return
        topics = [self._topic(name) for name in sorted(self._reading) if not self._partitions[name].gone]
        begins = self._consumer.beginning_offsets(topics, timeout_ms=_ASK_MS)
        ends = self._consumer.end_offsets(topics, timeout_ms=_ASK_MS)
        truncated = loss.divergent_offsets if isinstance(loss, LogTruncationError) else {}
        for topic in topics:
            fetched, begin = self._partitions[topic.partition].fetched, begins[topic]
            if topic in truncated:  # an unclean election: what stood behind the place was replaced
                known = truncated[topic]
                go_on = begin if known is None else max(begin, known.offset)
                if go_on < fetched:
                    self._lose(topic, go_on, (begin, ends[topic]), loss)
                else:  # told of where it stood before it was moved
                    self._consumer.seek(topic, fetched)
            elif not begin <= fetched <= ends[topic]:
                self._lose(topic, begin, (begin, ends[topic]), loss)
        self._loss = None

    def _lose(self, topic: Any, go_on: int, held: tuple[int, int], loss: KafkaError) -> None:
        """Go on at offset ``go_on`` of a partition that holds ``held``, or raise DataLossError."""
        partition = self._partitions[topic.partition]
        where = f"{self.name}, partition {topic.partition}"
        text = f"{where}: offset {partition.fetched} is gone, the broker has {held[0]} to {held[1]}"
        if not self._skip:
            raise DataLossError(f"{text}; on_data_loss: skip goes on at {go_on}") from loss
        log.warning("data loss, going on at %d: %s", go_on, text)
        self.skipped += max(0, go_on - partition.fetched)
        partition.fetched = go_on
        self._consumer.seek(topic, go_on)

    @property
    def missing(self) -> str | None:
        """See `Source`."""
        return self._waiting.missing

    def position(self) -> dict[int, int]:
        """See `Source`."""
        return {name: partition.position for name, partition in self._partitions.items()}

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        if self._is_other:
            return
        self._wanted.update(positions)
        for name, offset in positions.items():
            if name in self._partitions:
                self._partitions[name].rewind(offset)
            if name in self._reading:
                self._consumer.seek(self._topic(name), offset)

    def end_position(self) -> dict[int, int]:
        """See `Source`; as of the newest answer of the broker."""
        return {name: partition.end for name, partition in self._partitions.items()}

    def lag(self) -> int:
        """See `Source`; markers of transactions count."""
        return sum(max(0, partition.end - partition.position) for partition in self._partitions.values())

    def commit(self, positions: Mapping[int, int]) -> None:
        """See `Source`. Goes out in the background; a failure is logged, and the next commit makes up for it."""
        if self._group is None or not self._partitions:
            return
        offsets = {self._topic(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in positions.items()}
        try:
            self._consumer.commit_async(offsets, callback=self._committed)
        except KafkaError as error:
            self._committed(offsets, error)

    def _committed(self, _offsets: object, answer: object) -> None:
        if isinstance(answer, Exception):
            log.warning("offsets not committed group=%s source=%s: %r", self._group, self.name, answer)

    def close(self) -> None:
        """See `Source`."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            self._partitions, self._reading = {}, set()
            self._next_try = float("inf")
            with suppress(KafkaError):  # a broker that is away loses nothing by it
                consumer.close(autocommit=False, timeout_ms=_ASK_MS)
