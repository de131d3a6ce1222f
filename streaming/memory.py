"""``memory://NAME?partitions=N&bounded=0``: a stream in this process, for tests and small tools.

A stream comes into being with its first source or sink and lives until `forget`. With ``bounded=1`` its end is the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

from monolith.errors import DataLossError
from monolith.events import Record
from monolith.streaming.log import partition_of
from monolith.streaming.source import OnDataLoss, Outgoing, StreamUrl, check_outgoing

_OPTIONS = ("partitions", "bounded")
_topics: dict[str, MemoryTopic] = {}


class MemoryTopic:
    """The records of one stream, by partition. Any thread may call it."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]
        self.begins = [0] * partitions
        self.grown = threading.Condition()

    def append(self, records: Sequence[Outgoing], ingestion_ms: int | None = None) -> None:
        """Append by hash of the key, stamped ``ingestion_ms`` (None: now)."""
        for key, value, event_time_ms in records:
            self.put(partition_of(key, value, len(self.partitions)), key, value, event_time_ms, ingestion_ms)

    def put(
        self,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        event_ms: int,
        ingestion_ms: int | None = None,
    ) -> None:
        """Append one record to ``partition``."""
        stamp = time.time_ns() // 1_000_000 if ingestion_ms is None else ingestion_ms
        with self.grown:
            held = self.partitions[partition]
            offset = self.begins[partition] + len(held)
            held.append(Record(key, value, event_ms, stamp, partition, offset))
            self.grown.notify_all()

    def drop(self, partition: int, count: int) -> None:
        """Forget the oldest ``count`` records, as retention does."""
        with self.grown:
            del self.partitions[partition][:count]
            self.begins[partition] += count

    def grow(self, partitions: int) -> None:
        """Have ``partitions`` partitions; those that come are empty."""
        with self.grown:
            for _ in range(len(self.partitions), partitions):
                self.begins.append(0)
                self.partitions.append([])

    def end(self, partition: int) -> int:
        """The offset after the last record."""
        return self.begins[partition] + len(self.partitions[partition])


def topic(name: str, partitions: int = 1) -> MemoryTopic:
    """The stream called ``name``, created with ``partitions`` partitions where there is none."""
    return _topics.setdefault(name, MemoryTopic(partitions))


def forget(name: str) -> None:
    """Drop the stream ``name``; those who hold it keep it."""
    _topics.pop(name, None)


class MemorySource:
    """Reads a stream of this process."""

    def __init__(self, url: StreamUrl, *, wait: bool = False, on_data_loss: OnDataLoss = "stop") -> None:  # noqa: ARG002
        url.check_options(_OPTIONS)
        self.name = url.name
        self.bounded = url.choice("bounded", ("0", "1")) == "1"
        self.skipped = 0
        self.missing: str | None = None
        self._skip = on_data_loss == "skip"
        self._topic = topic(url.place, int(url.number("partitions", least=1) or 1))
        self._positions = dict(enumerate(self._topic.begins))

    def partitions(self) -> list[int]:
        """See `Source`."""
        for partition in range(len(self._positions), len(self._topic.partitions)):
            self._positions[partition] = self._topic.begins[partition]
        return list(self._positions)

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Source`."""
        deadline = time.monotonic() + timeout_s
        chosen = self._positions if partitions is None else sorted(partitions)
        with self._topic.grown:
            while not (records := self._take(max_records, chosen)):
                rest_s = deadline - time.monotonic()
                if rest_s <= 0:
                    break
                self._topic.grown.wait(rest_s)
        return records

    def _take(self, max_records: int, chosen: Collection[int]) -> list[Record]:
        taken: list[Record] = []
        for partition in chosen:
            start = self._start(partition)
            part = self._topic.partitions[partition][start : start + max_records - len(taken)]
            taken += part
            self._positions[partition] += len(part)
        return taken

    def _start(self, partition: int) -> int:
        begin, position = self._topic.begins[partition], self._positions[partition]
        if not begin <= position <= self._topic.end(partition):
            if not self._skip:
                raise DataLossError(
                    f"{self.name}, partition {partition}: offset {position} is gone, it holds {begin} to "
                    f"{self._topic.end(partition)}"
                )
            self.skipped += max(0, begin - position)
            self._positions[partition] = begin
        return self._positions[partition] - begin

    def position(self) -> dict[int, int]:
        """See `Source`."""
        return dict(self._positions)

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._positions.update(positions)

    def end_position(self) -> dict[int, int]:
        """See `Source`; exact."""
        return {partition: self._topic.end(partition) for partition in self._positions}

    def lag(self) -> int:
        """See `Source`."""
        return sum(end - self._positions[partition] for partition, end in self.end_position().items())

    def commit(self, positions: Mapping[int, int]) -> None:
        """See `Source`; nobody reads it."""

    def close(self) -> None:
        """See `Source`."""


class MemorySink:
    """Appends to a stream of this process."""

    def __init__(self, url: StreamUrl) -> None:
        url.check_options(_OPTIONS)
        self.name = url.name
        self._topic = topic(url.place, int(url.number("partitions", least=1) or 1))

    def append(self, records: Sequence[Outgoing]) -> None:
        """See `Sink`; durable while the process lives."""
        check_outgoing(self.name, records)
        self._topic.append(records)

    def close(self) -> None:
        """See `Sink`."""
