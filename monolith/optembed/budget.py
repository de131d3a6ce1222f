"""How many bytes tables take at given widths, and which rows fit.

Bytes are those of ``num_bytes()``: values, the words beside them in each row, the rows that absent ids share, and the
index. They are found by asking native tables, so whatever a row of this build costs is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config import TableConfig
from monolith.config.admission import Never
from monolith.config.expiry import Forever
from monolith.config.memory import Ram
from monolith.errors import InputError
from monolith.tables.kinds import new_embedding
from monolith.tables.stats import TableStats

Scores = npt.NDArray[np.float64]  # size - threshold, of each row of a table


def compact(config: TableConfig, width: int) -> TableConfig:
    """The table with rows of ``width`` values, to which nothing comes and from which nothing goes."""
    return msgspec.structs.replace(
        config, width=width, threshold=None, probation_s=None, admission=Never(), expiry=Forever(), per_feature={}
    )


@cache
def _stats(config: str, rows: int) -> TableStats:
    table = new_embedding(msgspec.json.decode(config, type=TableConfig))
    native = table.one_table
    assert native is not None
    native.native.reserve(rows)
    return native.stats()


@cache
def _row_bytes(config: str) -> int:
    """Bytes of values and words beside them of one row."""
    table = new_embedding(msgspec.structs.replace(msgspec.json.decode(config, type=TableConfig), admission=_ALWAYS))
    native = table.one_table
    assert native is not None
    before = native.stats()
    native.observe(np.zeros(1, np.int64))
    after = native.stats()
    return after.bytes_values + after.bytes_stamps - before.bytes_values - before.bytes_stamps


_ALWAYS = TableConfig(name="t", dim=1).admission


def table_bytes(config: TableConfig, width: int, rows: int) -> int:
    """``num_bytes()`` of a compact table that was made for ``rows`` rows."""
    asked = msgspec.json.encode(msgspec.structs.replace(compact(config, width), memory=Ram(), features=[])).decode()
    stats = _stats(asked, rows)
    return stats.bytes_values + stats.bytes_stamps + stats.bytes_index + rows * _row_bytes(asked)


def smallest(tables: Sequence[TableConfig]) -> int:
    """Bytes of tables with a row of one value each."""
    return sum(table_bytes(table, 1, 1) for table in tables)


def check_bytes(tables: Sequence[TableConfig], max_bytes: int) -> None:
    """Raise InputError where not even the smallest tables fit."""
    least = smallest(tables)
    if max_bytes < least:
        names = ", ".join(table.name for table in tables)
        raise InputError(
            f"--bytes {max_bytes:,}: the smallest possible is {least:,}, a row of one value in each table of kind "
            f"optembed ({names}), with index and shared rows; give at least that"
        )


class Cuts:
    """Which rows are kept: those above a cut, which is the lowest that fits, and never below 0."""

    def __init__(self, tables: Sequence[TableConfig], scores: Mapping[str, Scores], max_bytes: int) -> None:
        """``scores`` are the sizes of a table's rows less its threshold."""
        self._tables, self._max_bytes = list(tables), max_bytes
        self._ascending = {name: np.sort(each) for name, each in scores.items()}
        whole = np.concatenate([np.zeros(1), *(each[each > 0] for each in self._ascending.values())])
        self._steps = np.unique(whole)  # cuts between which something changes

    def rows(self, cut: float) -> dict[str, int]:
        """How many rows each table keeps: those of a score above ``cut``, and one at least, where it has any."""
        return {
            name: max(len(each) - int(np.searchsorted(each, cut, side="right")), min(1, len(each)))
            for name, each in self._ascending.items()
        }

    def bytes_of(self, widths: Sequence[int], rows: Mapping[str, int]) -> int:
        """What the tables take."""
        return sum(table_bytes(t, width, rows[t.name]) for t, width in zip(self._tables, widths, strict=True))

    def lowest(self, widths: Sequence[int]) -> float | None:
        """The lowest cut with which the tables fit; None: not even one row of each does."""
        low, high = 0, len(self._steps) - 1
        if not self._fits(widths, high):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(widths, middle) else (middle + 1, high)
        return float(self._steps[low])

    def _fits(self, widths: Sequence[int], step: int) -> bool:
        return self.bytes_of(widths, self.rows(float(self._steps[step]))) <= self._max_bytes


def kept(scores: Scores, cut: float) -> npt.NDArray[np.bool_]:
    """(n,) which rows `Cuts.rows` counts: of several that are largest, all are left out but the first."""
    above: npt.NDArray[np.bool_] = scores > cut
    if len(scores) and not above.any():
        above[int(np.argmax(scores))] = True
    return above
