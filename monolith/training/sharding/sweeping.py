"""The sweep that ends a journal step, over the parts of all ranks: the rows go that an undivided table's sweep takes.

A table's sweep looks at so many rows and counters, in the order of their hashes, from where the one before ended
(`Table.sweep` with ``max_rows``). Parts are runs of buckets, so a sweep begins in one part and goes on through those
behind it. The owner of the first says how many it looked at, everyone says how many there are in its parts, and so each
rank knows how far the sweep comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.config.expiry import Forever
from monolith.config.table import TableConfig
from monolith.tables import Table, _core
from monolith.tables.buckets import BUCKETS
from monolith.tables.header import UPPERS_A_BUCKET
from monolith.training.sharding.answers import OwnPart
from monolith.training.sharding.division import Division
from monolith.training.sharding.transport import Transport

_NO_LIMIT = 2**63 - 1
_UPPERS = BUCKETS * UPPERS_A_BUCKET

Ints = npt.NDArray[np.int64]


def sweep_parts(transport: Transport, divisions: Sequence[Division], parts: Sequence[OwnPart], max_rows: int) -> int:
    """Sweep each table as far as ``max_rows`` of its rows and counters reach. Collective. How many rows went, in all.

    All ranks' tables stand at one place of the sweep before, and do so afterwards.
    """
    sweeps = [
        TableSweep(division, {part.part: part.table for part in parts if part.number == number}, max_rows)
        for number, division in enumerate(divisions)
        if _sweeps(division.config)
    ]
    if not sweeps:
        return 0
    begun = transport.gather(np.concatenate([each.begin() for each in sweeps]))
    ended = [each.go_on(own) for each, own in zip(sweeps, _blocks(begun, [each.width for each in sweeps]), strict=True)]
    everyones = transport.gather(np.concatenate(ended))
    for each, own in zip(sweeps, _blocks(everyones, [2] * len(sweeps)), strict=True):
        each.stand_at(int(own[:, 1].max()))
    return int(everyones[:, ::2].sum())


def _sweeps(config: TableConfig) -> bool:
    """Whether a rule of the table has rows expire or be pruned, or counters decay."""
    decays = getattr(config.admission, "half_life_s", None) is not None
    goes = not isinstance(config.expiry, Forever) or config.threshold is not None
    return decays or goes or bool(config.per_feature)


def _blocks(rows: Ints, widths: Sequence[int]) -> Iterator[Ints]:
    """The columns of each table, (ranks, width)."""
    yield from np.split(rows, np.cumsum(widths)[:-1], axis=1)


@dataclass
class TableSweep:
    """One table's sweep, as this rank takes part in it."""

    division: Division
    own: dict[int, Table]  # the rank's parts
    max_rows: int

    def __post_init__(self) -> None:
        self.place = next(iter(self.own.values())).native.clockwork().sweep_cursor
        self.bucket = self.place // UPPERS_A_BUCKET
        self.first = int(self.division.owners.of_bucket[self.bucket])
        self.width = 2 + self.division.parts
        self.removed = 0

    def begin(self) -> Ints:
        """Sweep the rest of the part in which the sweep stands, if it is this rank's.

        How many were looked at and where that ended (0 and -1: it is another rank's), and how many each part has.
        """
        has = np.zeros(self.division.parts, np.int64)
        for part, table in self.own.items():
            has[part] = table.native.sweepable()
        if self.division.parts == 1:
            with self.own[0].writer:
                self.removed, _ = self.own[0].native.sweep(BUCKETS, self.max_rows)
            return np.concatenate([[self.max_rows, self._now(0)], has])
        if self.first not in self.own:
            return np.concatenate([[0, -1], has])
        looked_at = self._sweep(self.first, self.bucket, self._end(self.first), self.max_rows)
        return np.concatenate([[looked_at, self._now(self.first)], has])

    def go_on(self, begun: Ints) -> Ints:
        """Sweep this rank's parts behind the first as far as the sweep comes. Rows that went; where it ended, or -1."""
        looked_at, ended = (int(number) for number in begun[:, :2].max(axis=0))
        left = self.max_rows - looked_at
        if not left:
            return np.array([self.removed, ended], np.int64)
        has = begun[:, 2:].sum(axis=0)
        has[self.first] -= looked_at  # what is left of it lies before the place
        count = self.division.parts
        for part in ((self.first + 1 + number) % count for number in range(count)):
            end = self.bucket + 1 if part == self.first else self._end(part)
            passes = left > has[part]
            if part in self.own:
                self._stand_at(part, self._begin(part) * UPPERS_A_BUCKET)
                self._sweep(part, self._begin(part), end, _NO_LIMIT if passes else left)
            if not passes:
                return np.array([self.removed, self._now(part) if part in self.own else -1], np.int64)
            left -= int(has[part])
        return np.array([self.removed, self.place], np.int64)  # it came all the way round

    def stand_at(self, place: int) -> None:
        """Have the next sweep begin there."""
        for part in self.own:
            self._stand_at(part, place)

    def _sweep(self, part: int, begin: int, end: int, most: int) -> int:
        table = self.own[part]
        with table.writer:
            removed, looked_at = table.native.sweep(end - begin, most)
        self.removed += removed
        return looked_at

    def _stand_at(self, part: int, place: int) -> None:
        native = self.own[part].native
        now = native.clockwork()
        native.set_clockwork(
            _core.Clockwork(now.sequence, now.floor, now.clock_ms, place % _UPPERS, now.steps, now.eviction_cursor)
        )

    def _now(self, part: int) -> int:
        return self.own[part].native.clockwork().sweep_cursor

    def _begin(self, part: int) -> int:
        return self.division.buckets(part).ranges[0][0]

    def _end(self, part: int) -> int:
        return self.division.buckets(part).ranges[-1][1]
