"""How a table's ids become vectors, by way of rows that are published: the half of an embedding that a replica has too.

Rows are published under names: the table's own, or, where several rows make a vector, ``TABLE#part`` each. A reader
turns ids into keys of such rows, and the rows into vectors. It holds nothing but a few numbers, so training and serving
do the same arithmetic to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from monolith.config.absent import TAIL_MARK
from monolith.config.kinds import Hashed, Kind, OptEmbed, QuotientRemainder, Unified, kind_of
from monolith.config.table import TableConfig
from monolith.tables import _core
from monolith.tables.arguments import Ids, Matrix, checked_ids
from monolith.tables.hashing import feature_salt
from monolith.tables.tail import tail_name, tail_numbers, tail_sizes

Request = tuple[str, Ids]  # under which name rows are published, and their keys (n,)


class Vectors(Protocol):
    """Reads one table. Immutable: any thread may call it."""

    @property
    def dim(self) -> int:
        """Width of a vector."""

    @property
    def parts(self) -> Mapping[str, int]:
        """Width of the rows under each name."""

    def of(self, feature: str) -> Vectors:
        """What reads the ids of one feature, which are salted by its name where the table keeps features apart."""

    def requests(self, ids: Ids) -> list[Request]:
        """Which rows make the vectors of ``ids`` (n,) int64: n under each name, which may be there several times."""

    def vectors(self, rows: Sequence[Matrix]) -> Matrix:
        """The vectors (n, dim) of what was requested, in the order of the requests."""


class OwnRows:
    """A row is a vector, and its key the id; what an id without a row reads is the matter of whoever has the rows."""

    def __init__(self, name: str, dim: int) -> None:
        self.dim = dim
        self.parts = {name: dim}
        self._name = name

    def of(self, feature: str) -> Vectors:
        """Itself: all features are read alike."""
        del feature
        return self

    def requests(self, ids: Ids) -> list[Request]:
        """The ids as they are."""
        return [(self._name, ids)]

    def vectors(self, rows: Sequence[Matrix]) -> Matrix:
        """The rows as they are."""
        return rows[0]


class HashedRows(OwnRows):
    """A row is a vector, and its key a number below ``kind.rows``."""

    def __init__(self, name: str, dim: int, kind: Hashed) -> None:
        super().__init__(name, dim)
        self.kind = kind

    def keys(self, ids: Ids) -> Ids:
        """The number of each id's row, (n,)."""
        return tail_numbers(ids, self.kind.rows)

    def requests(self, ids: Ids) -> list[Request]:
        """The rows that the ids are hashed to."""
        return [(self._name, self.keys(ids))]


class PrefixRows:
    """A row is the first ``kind.width`` values of a vector, and its key the id; the vector's other values are 0."""

    def __init__(self, name: str, kind: OptEmbed) -> None:
        self.dim = kind.dim
        self.kind = kind
        self.parts = {name: kind.width}
        self._name = name

    def of(self, feature: str) -> Vectors:
        """Itself: all features are read alike."""
        del feature
        return self

    def requests(self, ids: Ids) -> list[Request]:
        """The ids as they are."""
        return [(self._name, ids)]

    def vectors(self, rows: Sequence[Matrix]) -> Matrix:
        """The rows, with zeros behind them."""
        return np.pad(rows[0], ((0, 0), (0, self.dim - self.kind.width)))


class QuotientRemainderRows:
    """Two rows make a vector: with h the number as which `HashedRows` would read, those of ``h // m`` and ``h % m``.

    The vector is ``q * (1 + r)``, ``q + r``, or the two side by side. In the product, rows of remainders are what a
    factor differs from 1 by: with both factors near 0, the first gradients would be near 0 as well.
    """

    def __init__(self, name: str, dim: int, kind: QuotientRemainder) -> None:
        self.dim = dim
        self.kind = kind
        self.names = (part_name(name, "quotient"), part_name(name, "remainder"))
        width = dim // 2 if kind.combine == "concat" else dim
        self.parts = dict.fromkeys(self.names, width)

    def of(self, feature: str) -> Vectors:
        """Itself: all features are read alike."""
        del feature
        return self

    def requests(self, ids: Ids) -> list[Request]:
        """The rows of the quotients, and those of the remainders."""
        quotients, remainders = np.divmod(tail_numbers(ids, self.kind.rows), self.kind.remainders)
        return [(self.names[0], quotients), (self.names[1], remainders)]

    def vectors(self, rows: Sequence[Matrix]) -> Matrix:
        """The rows combined."""
        quotients, remainders = rows
        if self.kind.combine == "concat":
            return np.concatenate([quotients, remainders], axis=1)
        if self.kind.combine == "sum":
            return np.asarray(quotients + remainders)
        return np.asarray(quotients * (remainders + np.float32(1.0)))

    def gradients(self, rows: Sequence[Matrix], grads: Matrix) -> list[Matrix]:
        """The gradients of the rows, by part, from those of the vectors (n, dim)."""
        quotients, remainders = rows
        if self.kind.combine == "concat":
            return [np.ascontiguousarray(half) for half in np.hsplit(grads, 2)]
        if self.kind.combine == "sum":
            return [grads, grads]
        return [np.asarray(grads * (remainders + np.float32(1.0))), np.asarray(grads * quotients)]


class UnifiedRows(OwnRows):
    """Rows by their numbers, of which the vectors of features are made: ``of`` gives what reads a feature's ids."""

    def __init__(self, name: str, dim: int, kind: Unified) -> None:
        super().__init__(name, dim)
        self.kind = kind

    def of(self, feature: str) -> ProbedRows:
        """What reads the ids of a feature of the table."""
        return ProbedRows(self._name, self.dim, self.kind.rows, self.kind.probes[feature])


class ProbedRows:
    """``probes`` rows side by side make a vector, each found by a hash of its own.

    From Coleman et al., "Unified Embedding" (2023). An id, salted by its feature, is salted again by the number of the
    probe, then hashed to a number of a row. So a vector's rows depend on the feature's name and the id alone.
    """

    def __init__(self, name: str, width: int, rows: int, probes: int) -> None:
        self.dim = probes * width
        self.parts = {name: width}
        self._name, self._rows = name, rows
        self._salts = [feature_salt(f"probe {number}") for number in range(probes)]

    def of(self, feature: str) -> Vectors:
        """Itself."""
        del feature
        return self

    def keys(self, ids: Ids) -> list[Ids]:
        """The numbers of each id's rows, (n,) for each probe."""
        ids = checked_ids(ids)
        return [tail_numbers(_core.salted(ids, salt), self._rows) for salt in self._salts]

    def requests(self, ids: Ids) -> list[Request]:
        """The rows of each probe."""
        return [(self._name, keys) for keys in self.keys(ids)]

    def vectors(self, rows: Sequence[Matrix]) -> Matrix:
        """The rows side by side."""
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


def part_name(table: str, part: str) -> str:
    """Under which name the rows of one part of a table are published."""
    return f"{table}{TAIL_MARK}{part}"


def vectors_of(name: str, dim: int, kind: Kind) -> Vectors:
    """What reads a table of ``dim``."""
    if isinstance(kind, Hashed):
        return HashedRows(name, dim, kind)
    if isinstance(kind, QuotientRemainder):
        return QuotientRemainderRows(name, dim, kind)
    if isinstance(kind, OptEmbed):
        return PrefixRows(name, kind)
    if isinstance(kind, Unified):
        return UnifiedRows(name, dim, kind)
    return OwnRows(name, dim)


def readers_of(widths: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, Vectors]:
    """What reads each table, and each other name under which rows are published.

    ``widths`` are those of all published rows, ``kinds`` of the tables whose rows are not their ids' own.
    """
    readers: dict[str, Vectors] = {name: OwnRows(name, width) for name, width in widths.items()}
    return readers | {name: vectors_of(name, _dim(name, widths, kind), kind) for name, kind in kinds.items()}


def _dim(name: str, widths: Mapping[str, int], kind: Kind) -> int:
    if isinstance(kind, OptEmbed):
        return kind.dim
    if not isinstance(kind, QuotientRemainder):
        return widths[name]
    width = widths[part_name(name, "quotient")]
    return 2 * width if kind.combine == "concat" else width


def kinds_of(tables: Iterable[TableConfig]) -> dict[str, Kind]:
    """The kind of each table whose rows a replica does not find by their ids, with a tail for those that have none."""
    return {table.name: kind_of(table) for table in tables if table.kind not in ("collisionless", "cafe")}


def published_dims(tables: Sequence[TableConfig]) -> dict[str, int]:
    """The width of all rows that are published of ``tables``, under their names; those that absent ids share last."""
    found: dict[str, int] = {}
    for table in tables:
        found |= vectors_of(table.name, table.dim, kind_of(table)).parts
    return found | {tail_name(name): found[name] for name in tail_sizes(tables)}
