"""``kind: unified``: a table of a fixed number of rows, which all its features share. `tables.kinds` makes one.

From Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML Systems" (2023). Each of
a feature's probes finds a row by a hash of its own, and the rows side by side are the vector (`tables.vectors`). Bags
are pooled probe by probe. A row takes one optimizer step a batch, on the sum of all gradients that reach it: of ids,
probes and features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from monolith.config.table import TableConfig
from monolith.errors import InputError
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_matrix, checked_times
from monolith.tables.collisionless import TableStep
from monolith.tables.fixed import FixedTable
from monolith.tables.table import Table
from monolith.tables.vectors import ProbedRows, UnifiedRows

Places = npt.NDArray[np.intp]


class UnifiedTable(FixedTable):
    """See `tables.embedding` for what the methods promise."""

    def __init__(self, config: TableConfig, reader: UnifiedRows, parts: Mapping[str, Table]) -> None:
        super().__init__(config, parts)
        self._readers = {feature: reader.of(feature) for feature in config.feature_names()}

    def width(self, feature: str) -> int:
        """Width of the feature's vectors."""
        return self._reader(feature).dim

    @property
    def one_table(self) -> Table | None:
        """The table of the rows."""
        return self._first

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The numbers of the rows of the feature's ids, by probe."""
        return self._reader(feature).keys(ids)

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The vectors of a feature's ids (n,), (n, width)."""
        reader = self._reader(feature)
        return reader.vectors([self._first.lookup(keys) for keys in reader.keys(ids)])

    def lookup(self, ids: Ids) -> Matrix:
        """The vectors of the only feature's ids, (n, width). Raises InputError where there are several."""
        return self.lookup_of(self._only("lookup_of"), ids)

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> UnifiedStep:
        """A step on ids of the only feature; see `tables.embedding`. Raises InputError where there are several."""
        return UnifiedStep(self._first, self._reader(self._only("a collection")), ids, event_time_ms)

    def _reader(self, feature: str) -> ProbedRows:
        try:
            return self._readers[feature]
        except KeyError:
            known = ", ".join(self._readers)
            raise InputError(f"table {self.config.name!r} has no feature {feature!r}; it has: {known}") from None

    def _only(self, instead: str) -> str:
        if len(self._readers) > 1:
            raise InputError(
                f"table {self.config.name!r} is unified: {', '.join(self._readers)} read other rows of it for one id; "
                f"say which feature the ids are of, with {instead}"
            )
        return next(iter(self._readers))


class UnifiedStep:
    """A training step on one feature's ids: the rows of all probes, stepped together."""

    def __init__(self, table: Table, reader: ProbedRows, ids: Ids, event_time_ms: EventTimes) -> None:
        keys = reader.keys(ids)
        self._width, self._count = reader.dim, len(ids)
        if isinstance(event_time_ms, np.ndarray) and event_time_ms.ndim:
            event_time_ms = np.tile(checked_times(event_time_ms, len(ids)), len(keys))
        self._step = TableStep(table, np.concatenate(keys), event_time_ms)
        self.values: Matrix = reader.vectors(np.split(self._step.values, len(keys)))  # (n, width)
        self._probes = len(keys)

    def check(self, grads: Matrix, places: Places | None = None) -> None:
        """Raise NonFiniteError for what the table would refuse."""
        self._step.check(*self._of_rows(grads, places))

    def apply(self, grads: Matrix, places: Places | None = None) -> None:
        """One optimizer step for each unique row."""
        self._step.apply(*self._of_rows(grads, places))

    def _of_rows(self, grads: Matrix, places: Places | None) -> tuple[Matrix, Places | None]:
        grads = checked_matrix(grads, self._count if places is None else len(places), self._width, "grads")
        of_rows = np.concatenate(np.hsplit(grads, self._probes))
        if places is None:
            return of_rows, None
        return of_rows, np.concatenate([places + probe * self._count for probe in range(self._probes)])
