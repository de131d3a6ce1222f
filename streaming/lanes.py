"""Lanes: what was polled of each partition and is not in a step yet.

A source is read ahead by up to a step's worth; a lane stands where the *steps* stand. Its clock, and the records that
it holds because they are too far ahead of that clock, move with the steps too, so they are the same in a re-run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from monolith.errors import EventError
from monolith.events import Decoded, Record
from monolith.streaming.backlog import Backlog, Polled, Ready
from monolith.streaming.clock import LaneClock
from monolith.streaming.codec import FeatureDecoder
from monolith.streaming.codec import Stream as StreamName
from monolith.streaming.record_block import RecordBlock, blocks_of
from monolith.streaming.source import BlockSource, Source

AHEAD_BYTES = 4 * 2**20  # polled ahead in one lane, at most (one record may be larger)
_MANY = 16  # records, from which on decoding them together is quicker than one by one


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A record that a step took, too far ahead of its lane's clock to be believed yet."""

    record: Record
    event: Decoded
    number: int  # of the record in its lane, counted as `Lane.seen`

    @property
    def time_ms(self) -> int:
        """Event time."""
        return self.event.event_time_ms


@dataclass(slots=True, eq=False)
class Lane:
    """One partition of one stream."""

    stream: StreamName
    number: int  # the stream's place in the order of records at one instant
    partition: int
    position: int  # the next offset that a step takes
    polled: int  # the next offset that the source hands out
    in_order: bool = True  # False: the stream has no order in time, and nothing of it is held or refused
    clock: LaneClock = field(default_factory=LaneClock)
    seen: int = 0  # records with an event that steps took
    misdated: int = 0  # records whose time was in another unit
    held: list[Held] = field(default_factory=list)  # in order of offset
    stop: int | None = None  # the offset at which the lane ends; None: it goes on
    heard_at: float = 0.0  # wall clock of the last record
    woken_at: float = 0.0  # wall clock of the end of a silence of all lanes, if this one was not idle before it
    ready: Backlog = field(default_factory=Backlog)

    @property
    def done(self) -> bool:
        """Whether steps have taken everything that it will ever give."""
        return self.stop is not None and self.position >= self.stop

    def takeable(self) -> int:
        """How many of the ready records lie before the stop."""
        if self.stop is None or not self.ready or self.ready.offset(-1) < self.stop:
            return len(self.ready)
        return self.ready.count_before(self.stop)

    def end_after(self, count: int) -> int:
        """The position after a step that takes ``count`` ready records."""
        if count < len(self.ready):
            return self.ready.offset(count) if count else self.position
        return self.polled if self.stop is None else min(self.polled, max(self.stop, self.position))

    def has_room(self, most: int) -> bool:
        """Whether to poll more of it."""
        at_stop = self.stop is not None and self.polled >= self.stop
        return len(self.ready) < most and self.ready.bytes < AHEAD_BYTES and not at_stop

    def push(self, *items: Polled) -> None:
        """Add what was just polled. A stream that was made anew, and is gone on with, begins at a lower offset."""
        behind = not self.ready
        self.ready.push(items)
        if behind:
            self.position = min(self.position, self.ready.offset(0))

    def take(self, end: int) -> list[Polled]:
        """Move to offset ``end`` and return what comes before it."""
        taken = self.ready.take(end)
        self.position = max(self.position, end)
        return taken


@dataclass(frozen=True, slots=True, eq=False)
class Polling:
    """What one poll gave: records and blocks in order, and where the source stands then in each partition asked for."""

    items: Sequence[Polled]
    positions: dict[int, int]


class Inlet:
    """One input stream of the job: its source, and a lane for each partition that is known."""

    def __init__(
        self, name: StreamName, number: int, source: Source, decoder: FeatureDecoder, *, in_order: bool = True
    ) -> None:
        """``in_order``: whether the stream's records come, by and large, in the order of their event times."""
        self.name = name
        self._in_order = in_order
        self.number = number
        self.source = source
        self.lanes: dict[int, Lane] = {}
        self._decoder = decoder
        self._blocks = decoder.block_decoder(name)
        self._poll_blocks = source.poll_blocks if isinstance(source, BlockSource) else None

    def add_lane(self, partition: int, position: int, *, seek: bool) -> Lane:
        """A lane for a partition that has none, standing at ``position``."""
        lane = Lane(self.name, self.number, partition, position, position, self._in_order)
        self.lanes[partition] = lane
        if seek:
            self.source.seek({partition: position})
            begin = self.source.position().get(partition, position)  # lower in a stream that was made anew
            lane.position = lane.polled = min(position, begin)
        return lane

    def new_partitions(self) -> dict[int, int]:
        """Partitions that have no lane, with the offset where the source stands."""
        missing = [partition for partition in self.source.partitions() if partition not in self.lanes]
        if not missing:
            return {}
        positions = self.source.position()
        return {partition: positions[partition] for partition in missing}

    def fill(self, most: int, timeout_s: float, partitions: Collection[int], clock: Callable[[], float]) -> bool:
        """Poll ``partitions``, decode what comes, and say whether anything came."""
        polling = self.ask(most, timeout_s, partitions)
        return polling is not None and self.accept(polling, clock)

    def ask(self, most: int, timeout_s: float, partitions: Collection[int]) -> Polling | None:
        """Poll ``partitions`` and decode what comes; no lane is touched. None: the source has none of them."""
        known = set(self.source.partitions())
        asked = [partition for partition in partitions if partition in known]
        if not asked:
            if partitions:  # the source is not there yet
                time.sleep(timeout_s)
            return None
        items = self.poll(most, timeout_s, asked)
        positions = self.source.position()
        return Polling(items, {partition: positions[partition] for partition in asked})

    def accept(self, polling: Polling, clock: Callable[[], float]) -> bool:
        """Put what was polled into its lanes, and say whether anything was."""
        for partition, items in groupby(polling.items, key=attrgetter("partition")):
            lane = self.lanes[partition]
            lane.push(*items)
            lane.heard_at = clock()
        for partition, position in polling.positions.items():
            lane = self.lanes[partition]
            lane.polled = position
            if not lane.ready:
                lane.position = min(lane.position, position)  # lower in a stream that was made anew
        return bool(polling.items)

    def poll(self, most: int, timeout_s: float, partitions: list[int]) -> Sequence[Polled]:
        """Up to ``most`` records of ``partitions``, decoded; waits up to ``timeout_s`` for the first."""
        if self._poll_blocks is not None:
            blocks: Iterable[RecordBlock] = self._poll_blocks(most, timeout_s, partitions)
        else:
            blocks = blocks_of(self.source.poll(most, timeout_s, partitions))
        return [item for block in blocks for item in self._decoded(block)]

    def _decoded(self, records: RecordBlock) -> Iterator[Polled]:
        """The records in order, those whose events fit the job together wherever they follow one another."""
        if self._blocks is None or len(records) < _MANY:
            yield from (Ready(record, self.decode(record)) for record in records.records())
            return
        for start, stop, events in self._blocks.blocks(records, self.decode):
            if events is not None:
                yield events
            else:
                yield from (Ready(record, self.decode(record)) for record in records.rows(start, stop).records())

    def decode(self, record: Record) -> Decoded | EventError:
        """The record's event, or why it has none."""
        try:
            return self._decoder.decode(record, self.name)
        except EventError as error:
            return error

    def caught_up(self) -> set[int]:
        """Partitions of which everything has been polled and taken."""
        if all(lane.ready for lane in self.lanes.values()):
            return set()
        ends = self.source.end_position()
        return {p for p, lane in self.lanes.items() if not lane.ready and p in ends and lane.polled >= ends[p]}

    def lag(self) -> int:
        """Records that no step has taken yet."""
        ends = self.source.end_position()
        return sum(max(0, ends[p] - lane.position) for p, lane in self.lanes.items() if p in ends)
