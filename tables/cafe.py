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

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from monolith.config.kinds import Cafe
from monolith.config.table import TableConfig
from monolith.tables import _core
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_ids
from monolith.tables.batch import Bag
from monolith.tables.collisionless import TableStep
from monolith.tables.delta import Delta
from monolith.tables.embedding import Seen
from monolith.tables.fixed import FixedTable
from monolith.tables.hot_index import HotIndex
from monolith.tables.published import HasRows
from monolith.tables.table import Table
from monolith.tables.tail import TailRows, tail_name

Places = npt.NDArray[np.intp]


class CafeTable(FixedTable):
    """See `tables.embedding` for what the methods promise. One table's calls that change it come one at a time."""

    watches: ClassVar[bool] = True

    def __init__(self, config: TableConfig, kind: Cafe, parts: Mapping[str, Table]) -> None:
        super().__init__(config, parts)
        self.kind = kind
        self.index = HotIndex(kind)

    @property
    def one_table(self) -> Table | None:
        """The table of all rows."""
        return self._first

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The number of each id's row, its own or a shared one, of whichever feature it is."""
        del feature
        return [self.index.keys(ids)]

    def lookup(self, ids: Ids) -> Matrix:
        """The rows that the ids (n,) read, (n, dim)."""
        ids = checked_ids(ids)
        while True:  # beside a step rows may change hands
            keys = self.index.keys(ids)
            values = self._first.lookup(keys)
            if np.array_equal(keys, self.index.keys(ids)):
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
        if self.index.scores:
            self.index.see(seen(), mean=self.config.pooling == "mean")
        newcomers = self.index.end_step(self.sequence)
        if newcomers is not None:
            values = self._first.lookup(newcomers.shared)
            with self._first.writer:
                _core.write_rows(self._first.native, newcomers.numbers, values)

    def own_ids(self) -> tuple[Ids, Ids]:
        """The ids that have rows of their own, ascending, and the numbers of these rows; (n,) both."""
        return self.index.own_ids()

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
        self.index.closed(closed)
        return closed

    def deltas(self, since: int) -> dict[str, Delta]:
        """Own rows that were written or went after ``since``, and shared rows that were written, as the tail."""
        return {self.config.name: self.index.published(self._first.delta(since))}

    def num_bytes(self) -> int:
        """Rows, the words beside them, the index, and the cells, which say which ids have rows of their own."""
        return super().num_bytes() + self.index.num_bytes

    def kept(self) -> bytes:
        """The scores, and who has which row."""
        return self.index.kept()

    def keep(self, data: bytes, where: str) -> None:
        """Be what ``kept`` said, besides the rows. Raises CorruptError, naming ``where``."""
        self.index.keep(data, where)


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
