"""The rows that a table's absent ids share: which id reads which, and how they travel beside the table.

They are published as a table of their own, named ``TABLE#tail``, with their numbers for ids. Which of ``rows`` shared
rows an id reads depends on the two alone: ``(mix64(mix64(id) XOR 0xA24BAED4963EE407) >> 32) * rows >> 32``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monolith.config.absent import TAIL_MARK
from monolith.config.table import TableConfig
from monolith.errors import InputError
from monolith.tables import _core
from monolith.tables.arguments import Ids, Matrix, checked_ids, checked_matrix
from monolith.tables.buckets import BUCKETS
from monolith.tables.delta import Delta


def tail_name(table: str) -> str:
    """Under which name a table's shared rows are published."""
    return f"{table}{TAIL_MARK}tail"


def tail_numbers(ids: Ids, rows: int) -> npt.NDArray[np.int64]:
    """Which of ``rows`` shared rows each of ``ids`` (n,) reads while it has none of its own, (n,)."""
    return _core.tail_numbers(checked_ids(ids), rows)


def checked_tail(config: TableConfig, delta: Delta) -> tuple[Ids, Matrix] | None:
    """Numbers (n,) and values (n, dim) of the shared rows in ``delta``, None for a table without any.

    Raises InputError where the delta is of another kind of table, or an image that lacks some.
    """
    rows, tail = config.tail_rows, delta.tail
    if (tail is None) != (rows == 0):
        has = "no tail" if tail is None else "a tail"
        raise InputError(
            f"the delta has {has}, table {config.name!r} one of {rows} rows: give both tables the same `absent`"
        )
    if tail is None:
        return None
    numbers = checked_ids(tail.ids, "the tail's numbers")
    expected = np.flatnonzero(delta.buckets.mask()[np.arange(rows) % BUCKETS])
    whole = delta.base_sequence > 0 or np.array_equal(numbers, expected)
    if not whole or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < rows):
        raise InputError(f"the delta's tail is not one of {rows} rows, as table {config.name!r} has it")
    return numbers, checked_matrix(tail.values, len(numbers), config.dim, "the tail's values")


def tail_sizes(tables: Iterable[TableConfig]) -> dict[str, int]:
    """The number of shared rows of each table that has any."""
    return {table.name: table.tail_rows for table in tables if table.tail_rows}


class HasTail(Protocol):
    """A table; ``monolith.tables.Table`` is one."""

    @property
    def config(self) -> TableConfig:
        """What the table is."""

    def tail(self) -> Matrix:
        """The shared rows, (tail rows, dim)."""


@dataclass(frozen=True, slots=True)
class TailRows:
    """The shared rows of ``table``, seen as a table."""

    table: HasTail

    def rows(self) -> tuple[Ids, Matrix]:
        """Numbers and values."""
        values = self.table.tail()
        return np.arange(len(values)), values
