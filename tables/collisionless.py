"""The collisionless table as an embedding: its rows are the vectors, its ids their keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import numpy.typing as npt

from monolith.errors import NonFiniteError
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_matrix
from monolith.tables.delta import Delta
from monolith.tables.published import HasRows
from monolith.tables.tail import TailRows, tail_name

if TYPE_CHECKING:
    from monolith.tables.embedding import Seen
    from monolith.tables.table import Table

Places = npt.NDArray[np.intp]


class Collisionless:
    """What ``monolith.tables.Table`` has as an embedding beside what it has as a table."""

    @property
    def one_table(self) -> Table | None:
        """The table itself."""
        return cast("Table", self)

    def width(self, feature: str) -> int:
        """The same for all features."""
        del feature
        return cast("Table", self).dim

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The ids as they are."""
        del feature
        return [ids]

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The rows of the ids, of whichever feature they are."""
        del feature
        return cast("Table", self).lookup(ids)

    watches: ClassVar[bool] = False

    def watch(self, seen: Callable[[], Sequence[Seen]]) -> None:
        """Not asked for."""

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> TableStep:
        """See `tables.embedding`; by the table's own rules, not by those of one feature."""
        return TableStep(cast("Table", self), ids, event_time_ms)

    def deltas(self, since: int) -> dict[str, Delta]:
        """The table's delta; the shared rows of absent ids travel in it."""
        table = cast("Table", self)
        return {table.config.name: table.delta(since)}

    def published(self) -> dict[str, HasRows]:
        """The rows, and those that absent ids share."""
        table = cast("Table", self)
        shared = {tail_name(table.config.name): TailRows(table)} if table.config.tail_rows else {}
        return {table.config.name: table, **shared}

    def num_bytes(self) -> int:
        """Rows, shared ones among them, the words beside them, and the index."""
        stats = cast("Table", self).stats()
        return stats.bytes_values + stats.bytes_stamps + stats.bytes_index


class TableStep:
    """A training step of one native table, of which only some ids may come to have a gradient."""

    def __init__(self, table: Table, ids: Ids, event_time_ms: EventTimes) -> None:
        self._table = table
        self._step = table.step(ids, event_time_ms=event_time_ms)

    @property
    def values(self) -> Matrix:
        """The rows as read, (n, dim)."""
        return self._step.values

    def check(self, grads: Matrix, places: Places | None = None) -> None:
        """Raise NonFiniteError for what the table would refuse, and InputError for another shape."""
        ids = self._ids(places)
        grads = checked_matrix(grads, len(ids), self._table.dim, "grads")
        largest = self._table.largest_gradient
        if self._table.config.on_nonfinite == "raise" and not _surely_fits(grads, largest):
            bad = _first_unfit(ids, grads, largest)
            if bad is not None:
                raise NonFiniteError(self._table._nonfinite_text(bad, ids, grads))

    def apply(self, grads: Matrix, places: Places | None = None) -> None:
        """One optimizer step for each unique id that has a gradient."""
        if places is None:
            self._step.apply_gradients(grads)
        else:
            self._table.apply_gradients(self._ids(places), grads)

    def _ids(self, places: Places | None) -> Ids:
        return self._step.ids if places is None else self._step.ids[places]


def _surely_fits(grads: Matrix, largest: float) -> bool:
    """Whether no sum of some of the gradients can be too large, whatever ids they belong to."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((np.abs(grads).sum(axis=0, dtype=np.float64) <= largest).all())


def _first_unfit(ids: Ids, grads: Matrix, largest: float) -> int | None:
    """The first position whose gradient, or whose id's sum in order of occurrence, is larger than ``largest``."""
    unique, group = np.unique(ids, return_inverse=True)
    sums = np.zeros((len(unique), grads.shape[1]), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(sums, group, grads)
        small = [np.asarray((np.abs(values) <= largest).all(axis=1)) for values in (grads, sums)]
    fits = small[0] & small[1][group]
    return None if fits.all() else int(np.argmin(fits))
