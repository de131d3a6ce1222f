"""``EventBlock``: consecutive records of one partition whose events fit the job, decoded to columns.

What one record's event is does not depend on the block that the record is in: ``decode`` gives the same event of each
record by itself, for a lane that must look at them one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.errors import EventError
from monolith.events import Decoded, Record
from monolith.streaming.record_block import RecordBlock
from monolith.tables.batch import Floats, Ints

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """``n`` byte strings in ``data``; string ``i`` lies from ``ends[i]`` to ``ends[i + 1]``."""

    data: Bytes
    ends: Ints  # (n + 1,)

    def rows(self, start: int, stop: int) -> Strings:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        return Strings(self.data, self.ends[start : stop + 1])


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """The packed rows of ``n`` events: their heads, and what follows them."""

    heads: Bytes  # (n, bytes of a head)
    bag_data: Strings

    def rows(self, start: int, stop: int) -> PackedRows:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        return PackedRows(self.heads[start:stop], self.bag_data.rows(start, stop))


@dataclass(frozen=True, slots=True, eq=False)
class ShownColumns:
    """Feature events."""

    packed: PackedRows
    draws: npt.NDArray[np.uint64]  # (n,): see `monolith.streaming.joiner.draw`

    def rows(self, start: int, stop: int) -> ShownColumns:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        return ShownColumns(self.packed.rows(start, stop), self.draws[start:stop])


@dataclass(frozen=True, slots=True, eq=False)
class ActionColumns:
    """Actions, by number in ``names``."""

    numbers: npt.NDArray[np.int32]  # (n,)
    names: tuple[str, ...]

    def rows(self, start: int, stop: int) -> ActionColumns:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        return ActionColumns(self.numbers[start:stop], self.names)


@dataclass(frozen=True, slots=True, eq=False)
class JoinedColumns:
    """Joined samples; label and rate as in `monolith.events.Joined`."""

    packed: PackedRows
    labels: Floats  # (n,)
    rates: Floats  # (n,)

    def rows(self, start: int, stop: int) -> JoinedColumns:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        return JoinedColumns(self.packed.rows(start, stop), self.labels[start:stop], self.rates[start:stop])


@dataclass(frozen=True, slots=True, eq=False)
class EventBlock:
    """``n`` events and the records that they are of. Shared, never changed."""

    records: RecordBlock
    event_time_ms: Ints  # (n,)
    keys: Strings  # 2 n: request and item id of each, UTF-8
    columns: ShownColumns | ActionColumns | JoinedColumns
    decode: Callable[[Record], Decoded | EventError]  # of one record, to the same event

    def __len__(self) -> int:
        return len(self.records)

    @property
    def partition(self) -> int:
        """The records' partition."""
        return self.records.partition

    @property
    def nbytes(self) -> int:
        """Bytes of the records' values."""
        return int(self.records.values.ends[-1] - self.records.values.ends[0])

    def rows(self, start: int, stop: int) -> EventBlock:
        """The events with numbers ``start`` to ``stop``; shares memory."""
        return EventBlock(
            self.records.rows(start, stop),
            self.event_time_ms[start:stop],
            self.keys.rows(2 * start, 2 * stop),
            self.columns.rows(start, stop),
            self.decode,
        )
