"""What was polled of a partition and no step has taken yet: records one by one, and blocks of them as columns.

Counted and looked at by record, whichever way it came; what a step takes comes out in order, and blocks of rows that
follow one another come out as one, so that it does not show how the source was polled. (Where blocks of events are cut
does not show either: they stand for the records that they are made of.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import takewhile
from operator import lt
from typing import TypeVar

import msgspec
import numpy as np

from monolith.errors import EventError
from monolith.events import WATERMARK_START, Decoded, Record
from monolith.streaming.event_block import EventBlock
from monolith.streaming.sample_block import SampleBlock, concatenated
from monolith.tables.batch import Ints

Block = TypeVar("Block", EventBlock, SampleBlock)


class Ready(msgspec.Struct, eq=False):
    """A record with its event, or with the reason why it has none."""

    record: Record
    event: Decoded | EventError

    @property
    def partition(self) -> int:
        """The record's partition."""
        return self.record.partition

    @property
    def time_ms(self) -> int:
        """Event time; one that cannot be told counts as long ago, so that nothing waits for it."""
        return WATERMARK_START if isinstance(self.event, EventError) else self.event.event_time_ms


Polled = Ready | EventBlock | SampleBlock


def readies(block: EventBlock) -> list[Ready]:
    """The block's records one by one, each with its event."""
    return [Ready(record, block.decode(record)) for record in block.records.records()]


class Backlog:
    """A queue. ``bytes``: of the records' values and the blocks' rows."""

    def __init__(self) -> None:
        self._items: deque[Polled] = deque()
        self._offsets: list[int] = []
        self._times_ms: list[int] = []
        self._ascends = True  # offsets do, unless the stream was made anew while some of it waited here
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def offset(self, number: int) -> int:
        """Offset of the record ``number`` from the front, or -1 for the last."""
        return self._offsets[number]

    def time_ms(self, number: int) -> int:
        """Event time of the record ``number``; WATERMARK_START where it has none."""
        return self._times_ms[number]

    def times_ms(self, count: int) -> Ints:
        """Event times of the first ``count`` records."""
        return np.array(self._times_ms[:count], np.int64)

    def count_before(self, end: int) -> int:
        """How many records come before the first one at ``end`` or behind it."""
        if self._ascends:
            return bisect_left(self._offsets, end)
        return sum(1 for _ in takewhile(lambda offset: offset < end, self._offsets))

    def push(self, items: Sequence[Polled]) -> None:
        """Add what was just polled."""
        before = len(self._offsets) - 1
        for item in items:
            if isinstance(item, SampleBlock):
                self._offsets.extend(range(item.offset, item.offset + len(item)))
                self._times_ms.extend(item.event_time_ms.tolist())
                self.bytes += item.nbytes
            elif isinstance(item, EventBlock):
                self._offsets.extend(item.records.offsets.tolist())
                self._times_ms.extend(item.event_time_ms.tolist())
                self.bytes += item.nbytes
            else:
                self._offsets.append(item.record.offset)
                self._times_ms.append(item.time_ms)
                self.bytes += len(item.record.value or b"")
        self._items.extend(items)
        added = self._offsets[max(before, 0) :]
        self._ascends = (self._ascends or before < 0) and all(map(lt, added, added[1:]))

    def before(self, end: int) -> Iterator[Polled]:
        """What comes before offset ``end``; of a `SampleBlock` that reaches behind it, the whole block."""
        for item in takewhile(lambda item: _offset(item) < end, self._items):
            yield item.rows(0, _count_before(item.records.offsets, end)) if isinstance(item, EventBlock) else item

    def take(self, end: int) -> list[Polled]:
        """Remove and return what comes before offset ``end``; no block follows right behind another."""
        count = self.count_before(end)
        del self._offsets[:count], self._times_ms[:count]
        taken: list[Polled] = []
        blocks: list[SampleBlock] = []  # that follow one another
        while count:
            item = self._items.popleft()
            if isinstance(item, SampleBlock):
                item = self._cut(item, count)
                if blocks and not blocks[-1].precedes(item):
                    taken.append(concatenated(blocks))
                    blocks = []
                blocks.append(item)
                count -= len(item)
                continue
            if blocks:
                taken.append(concatenated(blocks))
                blocks = []
            if isinstance(item, EventBlock):
                item = self._cut(item, count)
                count -= len(item)
            else:
                self.bytes -= len(item.record.value or b"")
                count -= 1
            taken.append(item)
        return [*taken, concatenated(blocks)] if blocks else taken

    def _cut(self, block: Block, count: int) -> Block:
        """The first ``count`` rows of a block that is taken off the queue; the others go back."""
        rest = block.rows(min(count, len(block)), len(block))
        if len(rest):
            self._items.appendleft(rest)
        self.bytes += rest.nbytes - block.nbytes
        return block.rows(0, count) if len(rest) else block


def _offset(item: Polled) -> int:
    if isinstance(item, EventBlock):
        return int(item.records.offsets[0])
    return item.offset if isinstance(item, SampleBlock) else item.record.offset


def _count_before(offsets: Ints, end: int) -> int:
    """How many offsets come before the first one at ``end`` or behind it."""
    behind = offsets >= end
    return int(behind.argmax()) if behind.any() else len(offsets)
