"""The native tables that a table of a job is divided as, whatever its kind.

A table of another kind than collisionless is some keys for each id in native tables, and a way to make a vector of
their rows (`tables.vectors`). So it is divided as these: rows by the buckets of their keys. Rows that have numbers are
all there from the start, each at its owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monolith.config.absent import TAIL_MARK
from monolith.config.kinds import Cafe, Collisionless, kind_of
from monolith.config.table import TableConfig
from monolith.errors import CorruptError
from monolith.tables import Table
from monolith.tables.arguments import Ids
from monolith.tables.buckets import Buckets
from monolith.tables.fixed import filled, numbered, part_configs, part_rows
from monolith.tables.hashing import salted
from monolith.tables.hot_index import HotIndex
from monolith.tables.schema import is_salted
from monolith.tables.vectors import OwnRows, Request, Vectors, vectors_of


@dataclass(frozen=True)
class Native:
    """One of them."""

    table: TableConfig  # the job's
    config: TableConfig  # its own
    name: str  # under which its rows are published
    rows: int = 0  # that are there from the start and stay, keys being their numbers; 0: rows come and go
    reader: Vectors | None = None  # gives keys; None: they are the ids
    salts: bool = False  # the ids, by their feature
    index: HotIndex | None = None  # which keys ids have, where that changes

    @property
    def folder(self) -> str:
        """Of its files, below that of the table; empty: the table's own."""
        return self.name.partition(TAIL_MARK)[2]

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The keys of a feature's ids (n,): (n,) for each of the rows that are side by side in a vector."""
        own = self.salted(feature, ids)
        if self.reader is None:
            return [own]
        return [keys for name, keys in self.reader.of(feature).requests(own) if name == self.name]

    def salted(self, feature: str, ids: Ids) -> Ids:
        """A feature's ids (n,) as the table knows them."""
        return salted(feature, ids) if self.salts else ids

    def new(self, config: TableConfig, buckets: Buckets) -> Table:
        """A part before the first step. Raises ConfigError where memory has no room for its rows."""
        return filled(config, self.rows, buckets)

    def check(self, part: Table, where: object) -> None:
        """Raise CorruptError, naming ``where``, if a part that was read lacks rows that are there from the start."""
        wanted = sum(len(numbers) for numbers in numbered(self.rows, part.buckets))
        if self.rows and len(part) != wanted:
            raise CorruptError(
                f"{where}: {part.buckets} of {self.name!r} have {len(part)} rows, {wanted} of {self.rows} is right: "
                f"restore the files from another copy, or set rows as they were"
            )


def natives_of(table: TableConfig) -> Iterator[Native]:
    """All of a table's, in the order in which its vectors are made of their rows."""
    kind = kind_of(table)
    if isinstance(kind, Collisionless):
        yield Native(table, table, table.name, salts=is_salted(table))
        return
    index = HotIndex(kind) if isinstance(kind, Cafe) else None
    reader = vectors_of(table.name, table.dim, kind) if index is None else _IndexedRows(table.name, table.dim, index)
    configs = part_configs(table, reader)
    for (name, config), rows in zip(configs.items(), part_rows(kind) or [0] * len(configs), strict=True):
        yield Native(table, config, name, rows, reader, is_salted(table), index)


class _IndexedRows(OwnRows):
    """A row is a vector, and its key a number that the index says, by now."""

    def __init__(self, name: str, dim: int, index: HotIndex) -> None:
        super().__init__(name, dim)
        self._index = index

    def requests(self, ids: Ids) -> list[Request]:
        """The rows that the ids have at this moment."""
        return [(self._name, self._index.keys(ids))]
