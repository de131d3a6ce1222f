"""What the Kafka source and sink must know and say of a topic: its retention, and how it comes into being.

Kafka's time retention goes by the record's own timestamp where the topic has ``message.timestamp.type=CreateTime``. Old
events written there may be gone within a second, without an error to anybody; so both ends warn.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from monolith.errors import UnavailableError
from monolith.streaming.kafka_place import KafkaPlace, in_words, reason_of
from monolith.streaming.source import StreamUrl

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """When a topic's records go."""

    max_age_ms: int | None  # None: never
    by_event_time: bool  # by the record's own stamp; else by the broker's

    def takes(self, event_time_ms: int) -> bool:
        """Whether a record of this event time is old enough to go at once."""
        if self.max_age_ms is None or not self.by_event_time:
            return False
        return event_time_ms < time.time_ns() // 1_000_000 - self.max_age_ms


def retention_of(place: KafkaPlace) -> Retention | None:
    """The topic's retention, or None if the broker does not tell."""
    names = {"retention.ms": None, "message.timestamp.type": None}
    try:
        admin = KafkaAdminClient(**place.connection())
    except KafkaError:
        return None
    try:
        answer = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, place.topic, configs=names)], config_filter="all"
        )
    except KafkaError:
        return None
    finally:
        admin.close()
    found = {key: entry["value"] for by_name in answer.values() for key, entry in by_name.get(place.topic, {}).items()}
    max_age_ms = int(found.get("retention.ms", -1))
    return Retention(None if max_age_ms < 0 else max_age_ms, found.get("message.timestamp.type") != "LogAppendTime")


def warn_of_retention(place: KafkaPlace, event_time_ms: int) -> None:
    """Say it if the topic holds, or is about to hold, a record that its retention takes at once."""
    retention = retention_of(place)
    if retention is not None and retention.takes(event_time_ms):
        log.warning(
            "topic %s has event times as old as %d ms, but keeps records for %d ms by event time: the broker removes "
            "them unread; set retention.ms=-1 or message.timestamp.type=LogAppendTime on it",
            place.topic,
            event_time_ms,
            retention.max_age_ms,
        )


def warn_of_emptied(place: KafkaPlace, gone: int) -> None:
    """Say it if an empty topic has lost all of its ``gone`` records to retention by event time."""
    retention = retention_of(place) if gone else None
    if retention is not None and retention.max_age_ms is not None and retention.by_event_time:
        log.warning(
            "topic %s is empty, but held %d records: it keeps them for %d ms by event time; set retention.ms=-1 or "
            "message.timestamp.type=LogAppendTime if they were historic",
            place.topic,
            gone,
            retention.max_age_ms,
        )


def create_topic(place: KafkaPlace, url: StreamUrl, partitions: int) -> None:
    """Create the topic with what the URL says, if it is not there. Raises UnavailableError."""
    configs = {}
    if "retention_ms" in url.options:
        configs["retention.ms"] = str(url.number("retention_ms", least=-1))
    replication = int(url.number("replication", least=1) or -1)
    spec = {place.topic: {"num_partitions": partitions, "replication_factor": replication, "configs": configs}}
    try:
        with in_words(place):
            admin = KafkaAdminClient(**place.connection())
        try:
            admin.create_topics(spec, wait_for_metadata=True)
        finally:
            admin.close()
    except TopicAlreadyExistsError:
        return
    except KafkaError as error:
        raise UnavailableError(
            f"{url.name}: the topic cannot be created: {reason_of(error)}; is the broker there?"
        ) from error
    log.info("topic created name=%s partitions=%d %s", place.topic, partitions, configs)
