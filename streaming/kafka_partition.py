"""One partition of a Kafka topic, as its source has it: what was fetched and is not handed out yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from monolith.events import Record


@dataclass(slots=True)
class Fetched:
    """What was fetched of one partition and is not handed out yet."""

    fetched: int  # the next offset that the consumer fetches
    end: int
    ready: deque[Record] = field(default_factory=deque)
    ready_bytes: int = 0
    gone: bool = False  # the topic has no such partition any more

    @property
    def position(self) -> int:
        """The next offset that is handed out."""
        return self.ready[0].offset if self.ready else self.fetched

    def push(self, record: Record) -> None:
        """Add what was fetched."""
        self.ready.append(record)
        self.ready_bytes += len(record.value or b"")
        self.fetched = record.offset + 1

    def take(self, most: int) -> list[Record]:
        """Hand out up to ``most`` records."""
        taken = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
        self.ready_bytes -= sum(len(record.value or b"") for record in taken)
        return taken

    def rewind(self, offset: int) -> None:
        """Stand at ``offset``, with nothing fetched."""
        self.ready.clear()
        self.fetched, self.ready_bytes = offset, 0


def record_of(row: Any) -> Record:
    """A consumer's row: its timestamp is the producer's or, with LogAppendTime, the broker's."""
    return Record(row.key, row.value, row.timestamp, row.timestamp, row.partition, row.offset)
