"""Reading ahead: a thread polls and decodes the next records while the owner trains on those of the step before.

What was read ahead is handed out by the owner's next `ReadAhead.read`, as if it were polled then; until then the source
stands, for all who ask, where it stood before. So no decision, position or snapshot depends on the thread. The source
itself is used by one thread at a time: what the owner asks of it waits for a poll that is under way, which is one
that does not wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from monolith.errors import MonolithError
from monolith.events import Record
from monolith.streaming.backlog import Polled
from monolith.streaming.source import Source

Read = Callable[[int, float, list[int]], list[Polled]]


class ReadAhead:
    """A `Source` that reads ahead of its owner. One thread at a time."""

    def __init__(self, source: Source, read: Read) -> None:
        """``read`` polls ``source`` and decodes: see `Inlet.poll`."""
        self._source, self._read = source, read
        self.name = source.name
        self.bounded = source.bounded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: Future[list[Polled]] | None = None
        self._before: dict[int, int] = {}  # where partitions of which something is held back stand for the owner
        self._held: list[Polled] = []
        self._error: MonolithError | None = None  # met by the thread; the next read raises it

    @property
    def skipped(self) -> int:
        """See `Source`."""
        return self._source.skipped

    def begin(self, most: int, partitions: list[int]) -> None:
        """Have up to ``most`` records of ``partitions`` read by the thread, unless some are already."""
        self._settle()
        if partitions and not self._held and self._error is None:
            self._before = self._source.position()
            self._coming = self._thread.submit(self._read, most, 0.0, partitions)

    def _settle(self) -> None:
        """Wait for the thread; afterwards the source is the owner's."""
        if self._coming is None:
            return
        coming, self._coming = self._coming, None
        try:
            self._held = coming.result()
        except MonolithError as error:
            self._error = error

    def read(self, most: int, timeout_s: float, partitions: list[int]) -> list[Polled]:
        """What was read ahead of ``partitions``; if nothing was, up to ``most`` records, as `Source.poll`."""
        self._settle()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        asked = set(partitions)
        ready = [item for item in self._held if item.partition in asked]
        self._held = [item for item in self._held if item.partition not in asked]
        return ready or self._read(most, timeout_s, partitions)

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Source`; what was read ahead is read again."""
        self.seek({})
        return self._source.poll(max_records, timeout_s, partitions)

    def partitions(self) -> list[int]:
        """See `Source`."""
        self._settle()
        return self._source.partitions()

    def position(self) -> dict[int, int]:
        """See `Source`: of what `read` has handed out."""
        self._settle()
        held = {item.partition for item in self._held}
        return self._source.position() | {p: offset for p, offset in self._before.items() if p in held}

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`. What was read ahead, of whatever partition, will be read again."""
        stand = self.position()
        self._source.seek({item.partition: stand[item.partition] for item in self._held} | dict(positions))
        self._held, self._error = [], None

    def end_position(self) -> dict[int, int]:
        """See `Source`."""
        self._settle()
        return self._source.end_position()

    def lag(self) -> int:
        """See `Source`."""
        stand = self.position()
        return sum(max(0, end - stand.get(p, end)) for p, end in self._source.end_position().items())

    def commit(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._settle()
        self._source.commit(positions)

    def close(self) -> None:
        """See `Source`."""
        with suppress(Exception):  # whatever the thread met, nobody will read on
            self._settle()
        self._thread.shutdown()
        self._source.close()


def has_core_to_spare() -> bool:
    """Whether this process may use more than one core; on one, a thread that reads ahead only gets in the way."""
    of_process = getattr(os, "sched_getaffinity", None)
    return (len(of_process(0)) if of_process else os.cpu_count() or 1) > 1
