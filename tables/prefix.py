"""``kind: optembed``: the collisionless table with rows narrower than its vectors.

A row holds the first ``width`` values of a vector, the others are 0: a network of ``dim`` inputs reads a table that was
found to need fewer. Rows lie in one native table, so admission, expiry, eviction, tail, optimizers and files are the
collisionless table's own, and so are first values: they depend on the seed, the table's name, the id and the column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from monolith.config.table import TableConfig
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_matrix
from monolith.tables.collisionless import TableStep
from monolith.tables.fixed import FixedTable
from monolith.tables.published import HasRows
from monolith.tables.table import Table
from monolith.tables.vectors import PrefixRows

if TYPE_CHECKING:
    from monolith.tables.fixed import Places


class PrefixTable(FixedTable):
    """`monolith.tables.kinds` makes one. ``one_table`` has the first columns of the vectors."""

    def __init__(self, config: TableConfig, reader: PrefixRows, parts: Mapping[str, Table]) -> None:
        super().__init__(config, parts)
        self._reader = reader

    @property
    def one_table(self) -> Table | None:
        """The table of the rows."""
        return self._first

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The ids as they are."""
        del feature
        return [ids]

    def sweep(self, *, max_rows: int) -> int:
        """Remove what expired or stayed small; how many rows went."""
        return self._first.sweep(max_rows=max_rows)

    def published(self) -> dict[str, HasRows]:
        """The rows, ``width`` wide, and those that absent ids share."""
        return self._first.published()

    def lookup(self, ids: Ids) -> Matrix:
        """The vectors of the ids (n,), (n, dim)."""
        return self._reader.vectors([self._first.lookup(ids)])

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The same, of whichever feature the ids are."""
        del feature
        return self.lookup(ids)

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> PrefixStep:
        """Observe the ids and read their vectors; see `tables.embedding`."""
        return PrefixStep(self._reader, TableStep(self._first, ids, event_time_ms))


class PrefixStep:
    """A training step: gradients of the columns that rows do not have go nowhere."""

    def __init__(self, reader: PrefixRows, step: TableStep) -> None:
        self._reader = reader
        self._step = step
        self.values = reader.vectors([step.values])  # (n, dim)

    def check(self, grads: Matrix, places: Places | None = None) -> None:
        """Raise NonFiniteError for what the table would refuse."""
        self._step.check(self._own(grads, places), places)

    def apply(self, grads: Matrix, places: Places | None = None) -> None:
        """One optimizer step for each unique id that has a gradient."""
        self._step.apply(self._own(grads, places), places)

    def _own(self, grads: Matrix, places: Places | None) -> Matrix:
        n = len(self.values) if places is None else len(places)
        grads = checked_matrix(grads, n, self._reader.dim, "grads")
        return np.ascontiguousarray(grads[:, : self._reader.kind.width])
