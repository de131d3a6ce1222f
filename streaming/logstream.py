"""``log://DIR`` as source and sink.

Options of the source: none of its own; ``partitions`` is checked against the log's. Options of the sink:
``partitions=N`` (when it creates the log; 1), ``sync=1|0`` (1; with 0 an append survives a killed process, not a power
cut), ``retain_s=S`` and ``retain_bytes=N`` (what is older or above goes as new records come; default: all stays).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from monolith.errors import DataLossError, MonolithError, UnavailableError
from monolith.events import Record
from monolith.streaming.log import EventLog, NoLogError, log_exists
from monolith.streaming.record_block import RecordBlock
from monolith.streaming.source import OnDataLoss, Outgoing, StreamUrl
from monolith.streaming.waiting import Waiting

log = logging.getLogger(__name__)

LOG_OPTIONS = ("partitions", "sync", "retain_s", "retain_bytes")
_POLL_S = 0.005  # how often a reader at the end looks again
_RETENTION_MS = 1000  # how often a sink looks for old batches


class LogSource:
    """Reads a log that other processes, or this one, append to."""

    def __init__(self, url: StreamUrl, *, wait: bool = False, on_data_loss: OnDataLoss = "stop") -> None:
        url.check_options(LOG_OPTIONS)
        self.name = url.name
        self.bounded = False
        self.skipped = 0
        self._folder = Path(url.place)
        self._expected = url.number("partitions", least=1)
        self._skip = on_data_loss == "skip"
        self._log: EventLog | None = None
        self._positions: dict[int, int] = {}
        self._begins: dict[int, int] = {}  # of the log, as it was when it was opened
        self._wanted: dict[int, int] = {}
        self._ready: dict[int, RecordBlock] = {}  # of the newest batch, what was not polled yet
        self._asked: set[int] = set()  # partitions that were polled
        self._known: str | None = None  # the id of the log that is read
        self._is_other = False  # another one was found: what `seek` is told is none of its offsets
        self._gone: dict[int, int] = {}  # partitions that the log does not have any more, with where they ended
        self._waiting = Waiting(self.name, "no log is there yet; the first producer creates it")
        if not wait or log_exists(self._folder):
            self._connect(must=not wait)

    def _connect(self, *, must: bool = False) -> EventLog | None:
        """The log, opened as soon as it is there."""
        if self._log is None:
            if not must and not log_exists(self._folder):
                self._waiting.say()
                return None
            expected = None if self._expected is None else int(self._expected)
            try:
                opened = EventLog(self._folder, partitions=expected)
            except NoLogError:  # the files are there, but their producer has not come to what makes them a log
                if must:
                    raise
                self._waiting.say()
                return None
            try:
                begins = {partition: extent.begin for partition, extent in opened.extents().items()}
            except BaseException:
                opened.close()
                raise
            self._log, self._begins = opened, begins
            self._stand()
            self._waiting.over()
        return self._log

    def _stand(self) -> None:
        """In the log that was opened, where it is wanted, or at its beginning if it is another log than before."""
        assert self._log is not None
        if self._known is not None and self._log.id != self._known:
            self._begin_anew()
        self._known = self._log.id
        self._positions = self._begins | {p: o for p, o in self._wanted.items() if p in self._begins}

    def _begin_anew(self) -> None:
        text = f"{self.name}: the log was made anew, its offsets are not those that were read"
        if not self._skip:
            self._let_go()  # whoever asks again meets the same error
            raise DataLossError(f"{text}; on_data_loss: skip reads it from its beginning")
        log.warning("data loss, reading the log from its beginning: %s", text)
        self._asked.clear()
        self._gone = {p: o for p, o in self._positions.items() if p not in self._begins}
        self._wanted, self._is_other = {}, True

    def _let_go(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _look_at_folder(self) -> None:
        """At the end of all that is read: if the folder was removed or replaced, what comes there is the stream."""
        assert self._log is not None
        if self._log.is_current():
            return
        ends = self._log.extents()
        if all(self._positions[p] >= ends[p].end for p in self._asked):
            self._wanted |= self._positions
            self._let_go()
            self._waiting.say("the log was removed; the next producer makes it anew")

    def mark(self) -> str | None:
        """See `MarkedSource`: an id that was drawn when the log was made."""
        self._is_other = False
        return self._known or None

    def expect(self, mark: str) -> None:
        """See `MarkedSource`."""
        self._known = mark
        if self._log is not None:
            self._stand()

    def partitions(self) -> list[int]:
        """See `Source`."""
        self._connect()
        return sorted(self._positions | self._gone)

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Source`."""
        blocks = self.poll_blocks(max_records, timeout_s, partitions)
        return [record for block in blocks for record in block.records()]

    def poll_blocks(
        self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None
    ) -> list[RecordBlock]:
        """See `BlockSource`."""
        deadline = time.monotonic() + timeout_s
        while not (blocks := self._take(max_records, partitions)):
            rest_s = deadline - time.monotonic()
            if rest_s <= 0:
                break
            time.sleep(min(_POLL_S, rest_s))
        return blocks

    def _take(self, max_records: int, partitions: Collection[int] | None) -> list[RecordBlock]:
        if self._connect() is None:
            return []
        taken: list[RecordBlock] = []
        try:
            for partition in sorted(self._positions.keys() & (self._positions if partitions is None else partitions)):
                self._asked.add(partition)
                self._take_from(partition, max_records - sum(map(len, taken)), taken)
        except MonolithError:
            if not taken:  # else what was taken counts, and the next poll meets the error again
                raise
        if not taken:
            self._look_at_folder()
        return taken

    def _take_from(self, partition: int, most: int, taken: list[RecordBlock]) -> None:
        """Add up to ``most`` records to ``taken``, from as many batches as it takes."""
        while most > 0:
            ready = self._ready.pop(partition, None) or self._read(partition)
            if ready is None:
                return
            some = ready.rows(0, min(most, len(ready)))
            if len(some) < len(ready):
                self._ready[partition] = ready.rows(len(some), len(ready))
            self._positions[partition] = int(some.offsets[-1]) + 1
            taken.append(some)
            most -= len(some)

    def _read(self, partition: int) -> RecordBlock | None:
        """The next batch; None at the end."""
        assert self._log is not None
        try:
            return self._log.read_block(partition, self._positions[partition])
        except DataLossError as error:
            if not self._skip:
                raise
            begin = self._log.extents()[partition].begin
            self.skipped += max(0, begin - self._positions[partition])
            log.warning("data loss, going on source=%s partition=%d at=%d: %s", self.name, partition, begin, error)
            self._positions[partition] = begin
            return self._log.read_block(partition, begin)

    @property
    def missing(self) -> str | None:
        """See `Source`."""
        return self._waiting.missing

    def position(self) -> dict[int, int]:
        """See `Source`."""
        return self._positions | self._gone

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        if self._is_other:
            positions = {p: self._begins[p] for p in positions if p in self._begins}
        self._wanted.update(positions)
        for partition, offset in positions.items():
            if partition in self._positions:
                self._positions[partition] = offset
                self._ready.pop(partition, None)

    def end_position(self) -> dict[int, int]:
        """See `Source`; exact."""
        opened = self._connect()
        if opened is None:
            return {}
        return self._gone | {partition: extent.end for partition, extent in opened.extents().items()}

    def lag(self) -> int:
        """See `Source`."""
        positions = self.position()
        return sum(end - positions[partition] for partition, end in self.end_position().items())

    def commit(self, positions: Mapping[int, int]) -> None:
        """A log keeps no reader's positions: the job's snapshot does."""

    def close(self) -> None:
        """See `Source`."""
        self._let_go()


class LogSink:
    """Appends to a log, which it creates where there is none."""

    def __init__(self, url: StreamUrl) -> None:
        url.check_options(LOG_OPTIONS)
        self.name = url.name
        partitions = url.number("partitions", least=1)
        self._max_age_s = url.number("retain_s", float)
        max_bytes = url.number("retain_bytes")
        self._max_bytes = None if max_bytes is None else int(max_bytes)
        self._next_retention_ms = 0
        self._folder, self._sync = Path(url.place), url.choice("sync", ("1", "0")) == "1"
        self.log = self._opened(None if partitions is None else int(partitions))

    def _opened(self, partitions: int | None) -> EventLog:
        return EventLog(self._folder, create=True, partitions=partitions, sync=self._sync)

    def append(self, records: Sequence[Outgoing]) -> None:
        """See `Sink`. All or none of ``records`` are there afterwards.

        Where the log's folder was removed since, it is made anew, and where another log is in its place, that one is
        appended to; either is logged.
        """
        if not self.log.is_current():
            self._meet_again()
        self.log.append(records)
        now_ms = time.time_ns() // 1_000_000
        if (self._max_age_s, self._max_bytes) != (None, None) and now_ms >= self._next_retention_ms:
            self._next_retention_ms = now_ms + _RETENTION_MS
            self._drop_old(now_ms)

    def _meet_again(self) -> None:
        there = log_exists(self._folder)
        what = "another one is in its place" if there else "it is made anew"
        log.warning("log %s was removed: %s; readers are told to begin again", self.name, what)
        self.log.close()
        self.log = self._opened(None if there else self.log.partitions)

    def _drop_old(self, now_ms: int) -> None:
        """The records are in: that old ones stay a while longer is no error of the append."""
        try:
            self.log.apply_retention(max_age_s=self._max_age_s, max_bytes=self._max_bytes, now_ms=now_ms)
        except UnavailableError as error:
            log.warning("retention is put off log=%s: %s", self.name, error)

    def close(self) -> None:
        """See `Sink`."""
        self.log.close()
