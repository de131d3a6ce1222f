"""Lanes of which only the heads of the records are here: what a step is cut by. Their owners have the records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from monolith.config import JobConfig
from monolith.errors import EventError
from monolith.events import ActionEvent, Record
from monolith.streaming.backlog import Polled, Ready
from monolith.streaming.clock import LaneClock
from monolith.streaming.codec import FeatureDecoder
from monolith.streaming.event_block import ActionColumns, EventBlock, Strings
from monolith.streaming.lanes import Held, Inlet, Lane, Polling
from monolith.streaming.part_messages import Heads, LaneFacts, LaneHeads, Look
from monolith.streaming.record_block import RecordBlock, Texts
from monolith.streaming.source import MarkedSource, Source
from monolith.tables.batch import Ints


class Looks(Protocol):
    """Has all processes poll their partitions."""

    def look(self, look: Look) -> Sequence[Heads]:
        """Of each process. Raises what polling does."""


class HeadInlet(Inlet):
    """A stream that several processes poll. Its lanes are cut like any others; what a cut takes of them is not here."""

    def __init__(self, job: JobConfig, inlet: Inlet, looks: Looks, settle: Callable[[], None]) -> None:
        """``inlet`` is this process's own of the stream; after ``settle`` no other thread has its source."""
        super().__init__(inlet.name, inlet.number, _HeadSource(inlet.source, settle), FeatureDecoder(job))
        self._looks = looks
        self._begins: dict[int, int] = {}  # lanes that their owners do not know of yet

    def add_lane(self, partition: int, position: int, *, seek: bool) -> Lane:
        """See `Inlet`; the owner's source is told with the next look."""
        del seek
        self._begins[partition] = position
        return super().add_lane(partition, position, seek=False)

    def new_begins(self) -> dict[int, int]:
        """Where the lanes begin that were added since the last call: their owners are to be told."""
        begins, self._begins = self._begins, {}
        return begins

    def ask(self, most: int, timeout_s: float, partitions: Collection[int]) -> Polling | None:
        """See `Inlet`."""
        said = self._looks.look(Look(self.name, self.new_begins(), sorted(partitions), most, timeout_s))
        assert isinstance(self.source, _HeadSource)
        self.source.heard(said)
        items = [item for heads in said for lane in heads.lanes for item in items_of(lane)]
        return Polling(items, {p: position for heads in said for p, position in heads.polled.items()})


class _HeadSource:
    """A process's own source of a stream, with what all owners last said of their partitions."""

    def __init__(self, own: Source, settle: Callable[[], None]) -> None:
        self._own, self._settle = own, settle
        self._ends: dict[int, int] = {}
        self._said: Sequence[Heads] = ()
        self.name, self.bounded = own.name, own.bounded

    def heard(self, said: Sequence[Heads]) -> None:
        self._said = said
        for heads in said:
            self._ends |= heads.ends

    @property
    def skipped(self) -> int:
        return sum(heads.skipped for heads in self._said)

    @property
    def missing(self) -> str | None:
        return next((heads.missing for heads in self._said if heads.missing is not None), None)

    def partitions(self) -> list[int]:
        self._settle()
        return self._own.partitions()

    def poll(self, max_records: int, timeout_s: float, partitions: Collection[int] | None = None) -> list[Record]:
        raise NotImplementedError("the owners of the partitions poll them")

    def position(self) -> dict[int, int]:
        self._settle()
        return self._own.position()

    def seek(self, positions: Mapping[int, int]) -> None:
        self._settle()
        self._own.seek(positions)

    def end_position(self) -> dict[int, int]:
        self._settle()
        own = self._own.end_position()
        return {p: max(own.get(p, 0), self._ends.get(p, 0)) for p in {**own, **self._ends}}

    def lag(self) -> int:
        self._settle()
        return self._own.lag()

    def commit(self, positions: Mapping[int, int]) -> None:
        self._settle()
        self._own.commit(positions)

    def mark(self) -> str | None:
        self._settle()
        return self._own.mark() if isinstance(self._own, MarkedSource) else None

    def expect(self, mark: str) -> None:
        raise NotImplementedError(f"the owners of the partitions expect {mark}")

    def close(self) -> None:
        self._settle()
        self._own.close()


def heads_of(partition: int, items: Sequence[Polled]) -> LaneHeads:
    """The heads of what was polled of a partition."""
    offsets: list[Ints] = []
    times: list[Ints] = []
    sizes: list[Ints] = []
    errors: list[tuple[int, str, str]] = []
    count = 0
    for item in items:
        if isinstance(item, EventBlock):
            offsets.append(item.records.offsets)
            times.append(item.event_time_ms)
            sizes.append(np.diff(item.records.values.ends))
        else:
            assert isinstance(item, Ready), "rows of files are not read in parts"
            offsets.append(np.array([item.record.offset], np.int64))
            times.append(np.array([item.time_ms], np.int64))
            sizes.append(np.array([len(item.record.value or b"")], np.int64))
            if isinstance(item.event, EventError):
                errors.append((count, item.event.reason, item.event.detail))
        count += len(sizes[-1])
    columns = [np.concatenate(column).astype("<i8").tobytes() for column in (offsets, times, sizes)]
    return LaneHeads(partition, columns[0], columns[1], columns[2], errors)


def items_of(lane: LaneHeads) -> list[Polled]:
    """Stand-ins for the records, as a lane takes them: all that is cut by is in them, and nothing else."""
    offsets, times_ms, sizes = (np.frombuffer(part, "<i8") for part in (lane.offsets, lane.times_ms, lane.sizes))
    items: list[Polled] = []
    begin = 0
    for number, reason, detail in [*lane.errors, (len(offsets), "", "")]:
        if number > begin:
            items.append(_block(lane.partition, offsets[begin:number], times_ms[begin:number], sizes[begin:number]))
        if number < len(offsets):
            record = Record(None, None, 0, 0, lane.partition, int(offsets[number]))
            items.append(Ready(record, EventError(reason, detail)))
        begin = number + 1
    return items


def _block(partition: int, offsets: Ints, times_ms: Ints, sizes: Ints) -> EventBlock:
    count = len(offsets)
    none, ends = np.zeros(count, np.bool_), np.concatenate([[0], np.cumsum(sizes)])
    texts = Texts(b"", ends, none)
    records = RecordBlock(partition, offsets, times_ms, times_ms, Texts.of([None] * count), texts)
    keys = Strings(np.zeros(0, np.uint8), np.zeros(2 * count + 1, np.int64))
    return EventBlock(records, times_ms, keys, ActionColumns(np.zeros(count, np.int32), ()), _undecoded)


def _undecoded(record: Record) -> ActionEvent:
    return ActionEvent("", "", "", record.event_time_ms)


def facts_of(lane: Lane) -> LaneFacts:
    """What an owner says of its lane."""
    held = [(each.number, each.time_ms) for each in lane.held]
    return LaneFacts(lane.clock.ms, list(lane.clock.recent), lane.seen, lane.misdated, held)


def follow_facts(lane: Lane, facts: LaneFacts) -> None:
    """Have ``lane`` as its owner says that it is."""
    lane.clock = LaneClock(facts.clock_ms, facts.recent)
    lane.seen, lane.misdated = facts.seen, facts.misdated
    record = Record(None, None, 0, 0, lane.partition, 0)
    lane.held = [Held(record, ActionEvent("", "", "", time_ms), number) for number, time_ms in facts.held]
