"""``kind: cafe``: the hottest ids have rows of their own, all others share rows by hash. `tables.kinds` makes one.

After Zhang et al., "CAFE: Towards Compact, Adaptive, and Fast Embedding for Large-scale Recommendation Models" (SIGMOD
2024). An id's *score* is the sum of its gradients' norms in every fourth step of the table, which decays with every
step. Every `EXCHANGE` steps own rows that are free, and up to 1 in 32 of the others with 16 more, go to the highest
scores: a newcomer starts from the values of the row that it shared, with a fresh optimizer state, and whoever it takes
the row from shares again. All of that depends on the steps alone.

All rows lie in one native table of a fixed number of rows: the shared ones first, by number, then the own ones. To a
replica the table is a collisionless one with a hashed tail: own rows are published under their ids, with removals, the
shared rows as the tail. Of two steps that overlap, the later one's gradients go to the rows that its ids had when it
began.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.kinds import Cafe
from monolith.config.table import TableConfig
from monolith.errors import CorruptError
from monolith.tables import _core
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_ids
from monolith.tables.batch import Bag
from monolith.tables.collisionless import TableStep
from monolith.tables.delta import Delta
from monolith.tables.embedding import Seen
from monolith.tables.fixed import FixedTable
from monolith.tables.published import HasRows
from monolith.tables.table import Table
from monolith.tables.tail import TailRows, tail_name, tail_numbers

SCORED = 4  # of so many steps one is scored: to score all would take a tenth of the time of training
EXCHANGE = 32  # steps
CELL_BYTES = 16  # of an id, its score and its slot
_KEPT_SEQUENCES = 4096  # for which ids that lost their row are known, as in a collisionless table

Places = npt.NDArray[np.intp]


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds, behind a CRC-32 (4 bytes, little-endian) of the rest: MessagePack, arrays little-endian."""

    ids: bytes  # of the cells, int64
    scores: bytes  # float32
    slots: bytes  # int32; -1: no row of its own
    weight: float
    steps: int
    gone: list[tuple[int, int]]  # ids that lost their row, ascending, and in which sequence
    version: int = 1


class CafeTable(FixedTable):
    """See `tables.embedding` for what the methods promise. One table's calls that change it come one at a time."""

    watches: ClassVar[bool] = True

    def __init__(self, config: TableConfig, kind: Cafe, parts: Mapping[str, Table]) -> None:
        super().__init__(config, parts)
        self.kind = kind
        self._hot = _core.HotIds(kind.rows, kind.own_rows, kind.score_decay)
        self._steps = 0
        self._gone: dict[int, int] = {}

    @property
    def one_table(self) -> Table | None:
        """The table of all rows."""
        return self._first

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The number of each id's row, its own or a shared one, of whichever feature it is."""
        del feature
        return [self._hot.keys(ids)]

    def lookup(self, ids: Ids) -> Matrix:
        """The rows that the ids (n,) read, (n, dim)."""
        ids = checked_ids(ids)
        while True:  # beside a step rows may change hands
            keys = self._hot.keys(ids)
            values = self._first.lookup(keys)
            if np.array_equal(keys, self._hot.keys(ids)):
                return values

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The same, of whichever feature the ids are."""
        del feature
        return self.lookup(ids)

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> CafeStep:
        """Read the rows; see `tables.embedding`."""
        return CafeStep(self, checked_ids(ids), event_time_ms)

    def watch(self, seen: Callable[[], Sequence[Seen]]) -> None:
        """Add the norms to the ids' scores; every so many steps, rows change hands."""
        self._steps += 1
        if self._steps % SCORED == 0:
            self._score(seen())
        self._hot.end_step()
        if self._steps % EXCHANGE == 0:
            self._exchange()

    def _score(self, seen: Sequence[Seen]) -> None:
        mean = self.config.pooling == "mean"
        for ids, bag, grads in seen:
            lengths = None if bag.one_each else np.ascontiguousarray(bag.lengths, np.int32)
            weights = None if bag.weights is None else np.ascontiguousarray(bag.weights, np.float32)
            self._hot.add(ids, lengths, weights, mean, grads)

    def _exchange(self) -> None:
        ids, slots, removed = self._hot.exchange()
        if not len(ids):
            return
        values = self._first.lookup(tail_numbers(ids, self.kind.rows))
        with self._first.writer:
            _core.write_rows(self._first.native, slots + self.kind.rows, values)
        self._gone |= dict.fromkeys(removed.tolist(), self.sequence)
        for one in ids.tolist():
            self._gone.pop(one, None)

    def own_ids(self) -> tuple[Ids, Ids]:
        """The ids that have rows of their own, ascending, and the numbers of these rows; (n,) both."""
        ids, _, slots, _ = self._hot.state()
        own = np.flatnonzero(slots >= 0)
        order = own[np.argsort(ids[own])]
        return ids[order], slots[order].astype(np.int64) + self.kind.rows

    def rows(self) -> tuple[Ids, Matrix]:
        """The own rows: ids (n,) ascending and values (n, dim)."""
        ids, numbers = self.own_ids()
        return ids, self._first.lookup(numbers)

    def tail(self) -> Matrix:
        """The shared rows, (rows, dim)."""
        return self._first.lookup(np.arange(self.kind.rows))

    def published(self) -> dict[str, HasRows]:
        """The own rows, and those that all other ids share."""
        return {self.config.name: self, tail_name(self.config.name): TailRows(self)}

    def cut(self) -> int:
        """Close the current sequence and return its number."""
        closed = super().cut()
        self._gone = {one: sequence for one, sequence in self._gone.items() if sequence > closed - _KEPT_SEQUENCES}
        return closed

    def deltas(self, since: int) -> dict[str, Delta]:
        """Own rows that were written or went after ``since``, and shared rows that were written, as the tail."""
        delta = self._first.delta(since)
        is_own = delta.ids >= self.kind.rows
        ids, numbers = self.own_ids()
        places = np.full(self.kind.own_rows, -1)
        places[numbers - self.kind.rows] = np.arange(len(ids))
        at = places[delta.ids[is_own] - self.kind.rows]
        held = np.flatnonzero(at >= 0)  # the others belong to nobody by now
        order = held[np.argsort(at[held])]  # by id
        gone = sorted(one for one, sequence in self._gone.items() if sequence > since) if since else []
        none = np.zeros(0, np.int64)
        tail = Delta(since, delta.sequence, delta.ids[~is_own], delta.values[~is_own], none)
        own = delta.values[is_own][order]
        return {
            self.config.name: Delta(
                since, delta.sequence, ids[at[order]], own, np.array(gone, np.int64), tail, delta.buckets
            )
        }

    def num_bytes(self) -> int:
        """Rows, the words beside them, the index, and the cells, which say which ids have rows of their own."""
        return super().num_bytes() + CELL_BYTES * self._hot.cells

    def kept(self) -> bytes:
        """The scores, and who has which row."""
        ids, scores, slots, weight = self._hot.state()
        arrays = (ids.astype("<i8").tobytes(), scores.astype("<f4").tobytes(), slots.astype("<i4").tobytes())
        data = msgspec.msgpack.encode(_Kept(*arrays, weight, self._steps, sorted(self._gone.items())))
        return zlib.crc32(data).to_bytes(4, "little") + data

    def keep(self, data: bytes, where: str) -> None:
        """Be what ``kept`` said, besides the rows. Raises CorruptError, naming ``where``."""
        if len(data) < 4 or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            raise CorruptError(f"{where} is missing or damaged: {len(data)} bytes, whose checksum does not hold")
        try:
            kept = msgspec.msgpack.decode(data[4:], type=_Kept)
            ids = np.frombuffer(kept.ids, "<i8").astype(np.int64)
            scores = np.frombuffer(kept.scores, "<f4").astype(np.float32)
            slots = np.frombuffer(kept.slots, "<i4").astype(np.int32)
        except (msgspec.DecodeError, ValueError) as error:
            raise CorruptError(f"{where} cannot be read: {error}") from None
        if kept.version != 1 or not self._hot.restore(ids, scores, slots, kept.weight):
            raise CorruptError(f"{where} holds no scores of a table with {self.kind.own_rows} own rows")
        self._steps, self._gone = kept.steps, dict(kept.gone)


class CafeStep:
    """A training step: once the rows took the gradients, the scores do."""

    def __init__(self, table: CafeTable, ids: Ids, event_time_ms: EventTimes) -> None:
        self._table, self._ids = table, ids
        assert table.one_table is not None
        self._step = TableStep(table.one_table, table.keys("", ids)[0], event_time_ms)

    @property
    def values(self) -> Matrix:
        """The rows as read, (n, dim)."""
        return self._step.values

    def check(self, grads: Matrix, places: Places | None = None) -> None:
        """Raise NonFiniteError for what the table would refuse."""
        self._step.check(grads, places)

    def apply(self, grads: Matrix, places: Places | None = None) -> None:
        """One optimizer step for each unique row."""
        self._step.apply(grads, places)
        ids = self._ids if places is None else self._ids[places]
        self._table.watch(lambda: [Seen(ids, Bag(ids, np.ones(len(ids), np.int32)), grads)])
