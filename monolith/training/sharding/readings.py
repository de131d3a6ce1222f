"""How a rank makes vectors of the rows that came, and gradients of rows of the vectors' gradients, by kind of table.

Where vectors are rows, or rows side by side, each is pooled by itself, in native code. Where two rows make a vector
(``kind: qr``), vectors are made before they are pooled, as in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monolith.tables.pooling import pool, spread
from monolith.tables.vectors import QuotientRemainderRows
from monolith.training.sharding.division import Division
from monolith.training.sharding.questions import TableQuestion

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Reading(Protocol):
    """One table of the job. ``tables`` are the batch's questions, and ``begins`` is where their rows begin in ``flat``.

    Columns are those of the table's vectors in a matrix (batch, all dims).
    """

    def pool(self, tables: Sequence[TableQuestion], flat: Floats, begins: Ints, out: Floats) -> None:
        """Fill the table's columns of ``out`` with what the bags come to."""

    def gradients(
        self, tables: Sequence[TableQuestion], grads: Floats, shared_by: int, flat: Floats, begins: Ints
    ) -> None:
        """Put into ``flat`` what goes to the owners for ``grads``, each divided by ``shared_by``."""


def readings_of(divisions: Sequence[Division]) -> list[Reading]:
    """Of each table, in order, with its columns."""
    readings: list[Reading] = []
    column = 0
    for name in dict.fromkeys(division.native.table.name for division in divisions):
        numbers = [n for n, division in enumerate(divisions) if division.native.table.name == name]
        of = divisions[numbers[0]]
        table = of.native.table
        if len(numbers) > 1:
            assert isinstance(of.native.reader, QuotientRemainderRows)
            readings.append(_Combined(numbers, of.native.reader, column, table.pooling))
        elif table.kind == "optembed" and of.config.dim < table.dim:
            readings.append(_Narrow(numbers[0], column, of.config.dim, table.dim))
        else:
            readings.append(_Rows(numbers[0], column))
        column += sum(map(table.vector_width, table.feature_names()))
    return readings


class _Rows:
    def __init__(self, number: int, column: int) -> None:
        self._number, self._column = number, column

    def pool(self, tables: Sequence[TableQuestion], flat: Floats, begins: Ints, out: Floats) -> None:
        tables[self._number].pool(flat, begins[self._number], out, self._column)

    def gradients(
        self, tables: Sequence[TableQuestion], grads: Floats, shared_by: int, flat: Floats, begins: Ints
    ) -> None:
        tables[self._number].gradients(grads, self._column, shared_by, flat, begins[self._number])


class _Narrow:
    """Rows are the first columns of vectors, whose others are 0."""

    def __init__(self, number: int, column: int, width: int, dim: int) -> None:
        self._number, self._column, self._width, self._dim = number, column, width, dim

    def pool(self, tables: Sequence[TableQuestion], flat: Floats, begins: Ints, out: Floats) -> None:
        table = tables[self._number]
        count = len(table.bags)
        rows = np.empty((len(out), count * self._width), np.float32)
        table.pool(flat, begins[self._number], rows, 0)
        out[:, self._column : self._column + count * self._dim] = 0.0
        for own, part in zip(self._columns(out, count), np.split(rows, count, axis=1), strict=True):
            own[:] = part

    def gradients(
        self, tables: Sequence[TableQuestion], grads: Floats, shared_by: int, flat: Floats, begins: Ints
    ) -> None:
        table = tables[self._number]
        own = np.concatenate(self._columns(grads, len(table.bags)), axis=1)
        table.gradients(own, 0, shared_by, flat, begins[self._number])

    def _columns(self, matrix: Floats, count: int) -> list[Floats]:
        """Of each vector, those that rows have: views."""
        starts = [self._column + k * self._dim for k in range(count)]
        return [matrix[:, start : start + self._width] for start in starts]


class _Combined:
    """Vectors are made of rows of several native tables, one of each for each id."""

    def __init__(self, numbers: Sequence[int], reader: QuotientRemainderRows, column: int, pooling: str) -> None:
        self._numbers, self._reader, self._column, self._pooling = numbers, reader, column, pooling

    def pool(self, tables: Sequence[TableQuestion], flat: Floats, begins: Ints, out: Floats) -> None:
        first = tables[self._numbers[0]]
        for number in self._numbers:
            tables[number].keep_rows(flat, begins[number])  # as they are read: the gradients need them
        vectors = self._reader.vectors([tables[number].rows for number in self._numbers])
        for k, (bag, own) in enumerate(zip(first.bags, np.split(vectors, first.ends[:-1]), strict=True)):
            self._columns(out, k)[:] = pool(own, bag, self._pooling)

    def gradients(
        self, tables: Sequence[TableQuestion], grads: Floats, shared_by: int, flat: Floats, begins: Ints
    ) -> None:
        bags = tables[self._numbers[0]].bags
        each = [spread(self._columns(grads, k), bag, self._pooling) for k, bag in enumerate(bags)]
        rows = [tables[number].rows for number in self._numbers]
        of_rows = self._reader.gradients(rows, np.ascontiguousarray(np.concatenate(each)))
        for number, own in zip(self._numbers, of_rows, strict=True):
            tables[number].gradients_of_rows(own, shared_by, flat, begins[number])

    def _columns(self, matrix: Floats, k: int) -> Floats:
        begin = self._column + k * self._reader.dim
        return matrix[:, begin : begin + self._reader.dim]
