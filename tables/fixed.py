"""Tables of a fixed number of rows: all are there from the start, and none goes. Ids share them.

Each part is a native table whose keys are the numbers of its rows, so that optimizers, storage types, threads, deltas
and files are the collisionless table's own. First values depend on the seed, the table's name, the part and the row's
number alone. The index that finds a numbered row takes 10 bytes a row, which `num_bytes` counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.absent import TAIL_MARK
from monolith.config.kinds import Cafe, Collisionless, Hashed, Kind, QuotientRemainder, Unified, kind_of
from monolith.config.table import TableConfig
from monolith.disk import write_durably
from monolith.errors import ConfigError, CorruptError
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_ids, checked_matrix
from monolith.tables.buckets import ALL_BUCKETS, BUCKETS, Buckets
from monolith.tables.collisionless import TableStep
from monolith.tables.delta import Delta
from monolith.tables.embedding import Seen
from monolith.tables.kind_file import KEPT_FILE, SavedKind, part_folder, write_kind
from monolith.tables.published import HasRows
from monolith.tables.split import buckets_of
from monolith.tables.stats import TableStats
from monolith.tables.table import Table
from monolith.tables.vectors import HashedRows, QuotientRemainderRows, Vectors

Places = npt.NDArray[np.intp]

_AT_ONCE = 1 << 20  # rows made in one call
# what is summed over parts; all else happens to each of them alike
SUMMED = [f.name for f in fields(TableStats) if f.name.startswith("bytes_") or f.name in ("rows", "free_rows")]


class FixedTable:
    """What all kinds with a fixed number of rows have in common; see `tables.embedding` for what the methods promise.

    ``parts`` are the native tables, by the name under which their rows are published.
    """

    def __init__(self, config: TableConfig, parts: Mapping[str, Table]) -> None:
        self.config = config
        self.parts = dict(parts)
        self._first = next(iter(parts.values()))

    @property
    def dim(self) -> int:
        """``dim`` of the config."""
        return self.config.dim

    def width(self, feature: str) -> int:
        """The same for all features, where a kind does not say otherwise."""
        del feature
        return self.dim

    @property
    def sequence(self) -> int:
        """The number that the next ``cut`` will close."""
        return self._first.sequence

    @property
    def clock_ms(self) -> int:
        """The clock in event time."""
        return self._first.clock_ms

    @property
    def largest_gradient(self) -> float:
        """The largest size in a gradient that the optimizer bears."""
        return self._first.largest_gradient

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    watches: ClassVar[bool] = False

    def watch(self, seen: Callable[[], Sequence[Seen]]) -> None:
        """Not asked for, where ``watches`` is false."""

    def kept(self) -> bytes:
        """What the table is besides its parts; empty: nothing."""
        return b""

    def keep(self, data: bytes, where: str) -> None:
        """Be what ``kept`` said, besides the parts. Raises CorruptError, naming ``where``."""
        if data:
            raise CorruptError(f"{where}: a table of kind {self.config.kind} keeps nothing besides its rows")

    def advance(self, watermark_ms: int) -> None:
        """Move the clock; rows do not expire by it."""
        for table in self.parts.values():
            table.advance(watermark_ms)

    def sweep(self, *, max_rows: int) -> int:
        """No row ever goes."""
        del max_rows
        return 0

    def cut(self) -> int:
        """Close the current sequence in every part and return its number."""
        return {table.cut() for table in self.parts.values()}.pop()

    def deltas(self, since: int) -> dict[str, Delta]:
        """What was written after ``since``, by part."""
        return {name: table.delta(since) for name, table in self.parts.items()}

    def published(self) -> dict[str, HasRows]:
        """The parts."""
        return dict(self.parts)

    def num_bytes(self) -> int:
        """Rows, the words beside them, and the indexes."""
        return sum(table.num_bytes() for table in self.parts.values())

    def stats(self) -> TableStats:
        """Rows and bytes of all parts; what has happened to ids, of the first, to which the same happens."""
        each = [table.stats() for table in self.parts.values()]
        sums = {name: sum(getattr(stats, name) for stats in each) for name in SUMMED}
        return TableStats(**{f.name: sums.get(f.name, getattr(each[0], f.name)) for f in fields(TableStats)})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``kind.json``, each part as a ``table.bin``, and what is kept besides; see `tables.kind_file`."""
        folder, kind = Path(folder), kind_of(self.config)
        assert not isinstance(kind, Collisionless)
        for name, table in self.parts.items():
            table.save(part_folder(folder, name))
        if kept := self.kept():
            write_durably(folder / KEPT_FILE, kept)
        return write_kind(folder, SavedKind(self.config.name, self.config.dim, kind))


class HashedTable(FixedTable):
    """``kind: hashed``: an id reads the row of a number that a hash makes of it. `monolith.tables.kinds` makes one."""

    def __init__(self, config: TableConfig, reader: HashedRows, parts: Mapping[str, Table]) -> None:
        super().__init__(config, parts)
        self._reader = reader

    @property
    def one_table(self) -> Table | None:
        """The table of the rows."""
        return self._first

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The number of each id's row, of whichever feature it is."""
        del feature
        return [self._reader.keys(ids)]

    def lookup(self, ids: Ids) -> Matrix:
        """The rows that the ids (n,) read, (n, dim)."""
        return self._first.lookup(self._reader.keys(ids))

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The same, of whichever feature the ids are."""
        del feature
        return self.lookup(ids)

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> TableStep:
        """Read the rows; see `tables.embedding`."""
        return TableStep(self._first, self._reader.keys(ids), event_time_ms)


class QuotientRemainderTable(FixedTable):
    """``kind: qr``: two rows make a vector. `monolith.tables.kinds` makes one.

    A look-up beside a step may read one of the two rows from before the step and the other from after it.
    """

    one_table: ClassVar[Table | None] = None

    def __init__(self, config: TableConfig, reader: QuotientRemainderRows, parts: Mapping[str, Table]) -> None:
        super().__init__(config, parts)
        self._reader = reader

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """None: there is no one table to have keys in."""
        del feature, ids
        return []

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The vectors of ids (n,), of whichever feature they are."""
        del feature
        return self.lookup(ids)

    def lookup(self, ids: Ids) -> Matrix:
        """The vectors of ids (n,), (n, dim)."""
        return self._reader.vectors([self.parts[name].lookup(keys) for name, keys in self._reader.requests(ids)])

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> QuotientRemainderStep:
        """Read the vectors; see `tables.embedding`."""
        requests = self._reader.requests(checked_ids(ids))
        return QuotientRemainderStep(
            self._reader, [self.parts[name].begin(keys, event_time_ms=event_time_ms) for name, keys in requests]
        )


class QuotientRemainderStep:
    """A training step: both rows as they were read give both gradients."""

    def __init__(self, reader: QuotientRemainderRows, steps: Sequence[TableStep]) -> None:
        self._reader = reader
        self._steps = steps
        self.values = reader.vectors([step.values for step in steps])  # (n, dim)

    def check(self, grads: Matrix, places: Places | None = None) -> None:
        """Raise NonFiniteError for what one of the parts would refuse."""
        for step, part in zip(self._steps, self._gradients(grads, places), strict=True):
            step.check(part, places)

    def apply(self, grads: Matrix, places: Places | None = None) -> None:
        """One optimizer step for each unique row of each part."""
        for step, part in zip(self._steps, self._gradients(grads, places), strict=True):
            step.apply(part, places)

    def _gradients(self, grads: Matrix, places: Places | None) -> list[Matrix]:
        n = len(self.values) if places is None else len(places)
        grads = checked_matrix(grads, n, self._reader.dim, "grads")
        rows = [step.values if places is None else step.values[places] for step in self._steps]
        return self._reader.gradients(rows, grads)


def part_configs(config: TableConfig, reader: Vectors) -> dict[str, TableConfig]:
    """The native tables in which the rows of a table lie, by the name under which they are published."""
    plain: dict[str, object] = {"kind": "collisionless", "rows": None, "remainders": None, "combine": None}
    plain |= {"width": None, "probes": {}, "own_rows": None, "score_decay": None}
    return {
        name: msgspec.structs.replace(config, name=name.replace(TAIL_MARK, "."), dim=width, **plain)
        for name, width in reader.parts.items()
    }


def part_rows(kind: Kind) -> list[int]:
    """How many rows each part has from the start, in order; empty: rows come and go."""
    if isinstance(kind, Hashed | Unified):
        return [kind.rows]
    if isinstance(kind, Cafe):
        return [kind.rows + kind.own_rows]
    return [kind.quotients, kind.remainders] if isinstance(kind, QuotientRemainder) else []


def filled(config: TableConfig, rows: int, buckets: Buckets = ALL_BUCKETS) -> Table:
    """A native table, or a part of one, with rows 0 to ``rows`` - 1, those of ``buckets``.

    Raises ConfigError where memory has no room for them.
    """
    table = Table(config, buckets=buckets)
    try:
        table.native.reserve(-(-rows * len(buckets) // BUCKETS))
        for numbers in numbered(rows, buckets):
            table.observe(numbers)
    except MemoryError:
        raise ConfigError(
            f"table {config.name!r}: {rows} rows of {table.native.row_bytes} bytes have no room in memory: give fewer "
            f"rows, or a smaller dim"
        ) from None
    return table


def numbered(rows: int, buckets: Buckets = ALL_BUCKETS) -> Iterator[Ids]:
    """Those of the numbers 0 to ``rows`` - 1 whose rows are in ``buckets``, some at a time."""
    for start in range(0, rows, _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, rows))
        yield numbers if buckets.all else numbers[buckets.mask()[buckets_of(numbers)]]
