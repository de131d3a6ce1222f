"""``kafka://`` as a sink: a topic to append to, created from the URL's options where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from monolith.errors import InputError, UnavailableError
from monolith.streaming.kafka_place import TOPIC_OPTIONS, in_words, place_of, reason_of
from monolith.streaming.kafka_topics import create_topic, warn_of_retention
from monolith.streaming.source import Outgoing, StreamUrl, check_outgoing

_MOST_BYTES = 2**20  # kafka-python's max_request_size
_FRAME_BYTES = 512  # above what surrounds one record on its way
_DELIVERY_MS = 30_000  # after that an append that is not acknowledged has failed


class KafkaSink:
    """Appends to a topic: acknowledged by all in-sync replicas, and once each while one producer lives (idempotent)."""

    def __init__(self, url: StreamUrl) -> None:
        """Raises ConfigError for a bad URL. The broker is not asked before the first append."""
        self.name = url.name
        self._url = url
        self._place = place_of(url)
        self._producer: Any = None
        self._warned = False

    def append(self, records: Sequence[Outgoing]) -> None:
        """See `Sink`. After an UnavailableError some of ``records`` may be there: appending again may repeat them.

        An InputError for a record above the topic's own limit (``max.message.bytes``), which only the broker knows, is
        like that too.
        """
        check_outgoing(self.name, records)
        for index, (key, value, _) in enumerate(records):
            size = len(key or b"") + len(value or b"") + _FRAME_BYTES
            if size > _MOST_BYTES:
                raise InputError(
                    f"{self.name}: record {index} takes {size} bytes, Kafka's producer sends {_MOST_BYTES} at most; "
                    "nothing was written"
                )
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
        except MessageSizeTooLargeError as error:
            self._drop_producer()
            raise InputError(
                f"{self.name}: the topic does not take a record this large ({error}): raise its max.message.bytes"
            ) from error
        except KafkaError as error:
            self._drop_producer()
            why = f"{len(records)} records are not all known to be written: {reason_of(error)}"
            raise UnavailableError(f"{self.name}: {why}; is the broker there?") from error
        if records and not self._warned:
            self._warned = True
            warn_of_retention(self._place, min(event_time_ms for _, _, event_time_ms in records))

    def _connected(self) -> Any:
        if self._producer is None:
            if self._url.options.keys() & set(TOPIC_OPTIONS):
                create_topic(self._place, self._url, int(self._url.number("partitions", least=1) or 1))
            with in_words(self._place):
                self._producer = KafkaProducer(
                    **self._place.connection(),
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=5,
                    max_request_size=_MOST_BYTES,
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
