"""A whole table as a few arrays, and back, bit for bit: for formats of others, such as torch's state dicts.

===================  ======================  ========================================================================
``weight``           (n, dim) float32        the rows, bucket after bucket, ids ascending in each
``weight_id``        (n, 1) int64            their ids (keys, where features share the table without sharing rows)
``bucket``           (1024, 1) int64         how many of them each bucket has
``metadata``         (n, k) int64            last seen (ms), mark; and, where rows keep them, made (ms), uses, feature
``optimizer_state``  (n, words) float32      what the optimizer keeps of each
``counters``         (m, 3 or 4) int64       ids without a row: id, last counted (ms), count; and feature
``tombstones``       (t, 2) int64            ids that went: id, mark
``tail_weight``      (rows, dim) float32     shared rows of absent ids; ``tail_state``, ``tail_mark`` beside them
``table``            (bytes,) uint8          JSON: the header of the table's file (``docs/formats.md``)
===================  ======================  ========================================================================

The first four are TorchRec's names and shapes for a table without collisions ("virtual table"), whose metadata is also
what eviction goes by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.table import TableConfig
from monolith.errors import CorruptError
from monolith.tables import saved
from monolith.tables.bucket_checks import bucket_faults
from monolith.tables.buckets import ALL_BUCKETS, BUCKETS
from monolith.tables.header import SOMETIMES, Header, arrays_of, decode_header, encoded, limits
from monolith.tables.optimizer_options import with_steps
from monolith.tables.options import check_same_rows
from monolith.tables.settings import saved_steps
from monolith.tables.snapshot import Bucket, Entry, no_tail, tail_members
from monolith.tables.split import buckets_of
from monolith.tables.table import Table

Arrays = dict[str, npt.NDArray[Any]]

ROWS = ("weight", "weight_id", "bucket", "metadata")  # TorchRec's part
OWN = ("optimizer_state", "counters", "tombstones", "tail_weight", "tail_state", "tail_mark", "table")
NAMES = ROWS + OWN

_COLUMNS = {  # array -> the arrays of a bucket that are its columns, in order, and that may be missing at the end
    "metadata": ("last_seen_ms", "marks", "admitted_ms", "uses", "policies"),
    "counters": ("counter_ids", "counter_last_ms", "counts", "counter_policies"),
    "tombstones": ("tombstone_ids", "tombstone_marks"),
}
_TYPES = {name: "<i8" if name.endswith(("ids", "_ms")) else "<u4" for names in _COLUMNS.values() for name in names}


def to_arrays(table: Table) -> Arrays:
    """Copies of everything that ``table`` is; it is not to be trained meanwhile."""
    with table.writer:
        header = saved.header_of(table, ALL_BUCKETS)
        buckets = list(saved.exported(table, ALL_BUCKETS))
    words, counts = header.rows.state_floats, [len(bucket["ids"]) for bucket in buckets]
    arrays: Arrays = {
        "weight": _joined(buckets, "values").reshape(-1, table.dim),
        "weight_id": _joined(buckets, "ids").reshape(-1, 1),
        "bucket": np.array(counts, np.int64).reshape(-1, 1),
        "optimizer_state": _joined(buckets, "state").reshape(sum(counts), words),
        "table": np.frombuffer(encoded(header), np.uint8).copy(),
    }
    for name, columns in _COLUMNS.items():
        found = [_joined(buckets, column).astype(np.int64) for column in _kept(header, columns)]
        arrays[name] = np.stack(found, axis=1)
    order = np.argsort(
        [number for bucket in range(BUCKETS) for number in range(bucket, header.rows.tail_rows, BUCKETS)]
    )
    order = order.astype(np.int64)
    arrays["tail_weight"] = _joined(buckets, "tail_values").reshape(-1, table.dim)[order]
    arrays["tail_state"] = _joined(buckets, "tail_state").reshape(-1 if words else len(order), words)[order]
    arrays["tail_mark"] = _joined(buckets, "tail_marks").astype(np.int64)[order]
    return arrays


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], config: TableConfig, where: str) -> Table:
    """The table that `to_arrays` was given, under ``config``, which may differ from its own as for `Table.open`.

    Raises CorruptError, naming ``where``, for arrays that fit no table, and ConfigError as `Table.open` does.
    """
    held = _Held(arrays, where)
    check_same_rows(held.header.rows, config, where)
    table = Table(with_steps(config, "table", saved_steps(held.header.settings)))
    saved.SavedTable([held], ALL_BUCKETS).restore(table)  # type: ignore[list-item]  # what is asked of a file, it has
    return table


def _joined(buckets: Iterable[Bucket], name: str) -> npt.NDArray[Any]:
    """The array of all buckets, taken out of them: no more than one of all arrays is in memory twice."""
    return np.concatenate([bucket.pop(name) for bucket in buckets])


def _kept(header: Header, columns: Iterable[str]) -> list[str]:
    """Those columns that a bucket of such a table has."""
    sometimes = {array.name for array in SOMETIMES}
    has = {array.name for array in header.arrays}
    return [name for name in columns if name in has or name not in sometimes]


class _Held:
    """Arrays in the place of a table's file: what `SavedTable` asks of one."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], where: str) -> None:
        self.path, self.held, self._arrays = where, ALL_BUCKETS, arrays
        self.header = self._read_header(np.ascontiguousarray(arrays["table"]).tobytes())
        self._check_shapes()
        members = {"rows": "weight_id", "counters": "counters", "tombstones": "tombstones"}
        self._ends = {group: self._ends_of(name) for group, name in members.items()}
        self.directory = {number: Entry(0, self._counts(number), 0) for number in range(BUCKETS)}

    def buckets(self, numbers: Iterable[int]) -> Iterator[tuple[int, Bucket]]:
        """Those buckets, checked."""
        for number in numbers:
            bucket = self._bucket(number)
            for fault in bucket_faults(number, bucket, self.header.sequence, len(self.header.rows.policies)):
                self._corrupt(f"bucket {number}: {fault}")
            yield number, bucket

    def _read_header(self, json: bytes) -> Header:
        try:
            header = decode_header(json)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptError(f"{self.path}.table is no header of a table that this build knows: {error}") from None
        for name, value, lowest, highest in limits(header):
            if not lowest <= value <= highest:
                self._corrupt(f"{name} is {value}; allowed: {lowest} to {highest}")
        if header.held() != ALL_BUCKETS or header.arrays != arrays_of(header.rows, {a.name for a in header.arrays}):
            self._corrupt("the header is not that of a whole table")
        return header

    def _check_shapes(self) -> None:
        rows, words, a = self.header.rows, self.header.rows.state_floats, self._arrays
        n, tail = len(a["weight_id"]), rows.tail_rows
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {
            "weight": ("float32", (n, rows.dim)),
            "weight_id": ("int64", (n, 1)),
            "bucket": ("int64", (BUCKETS, 1)),
            "optimizer_state": ("float32", (n, words)),
            "tail_weight": ("float32", (tail, rows.dim)),
            "tail_state": ("float32", (tail, words)),
            "tail_mark": ("int64", (tail,)),
        }
        for name, columns in _COLUMNS.items():
            members = n if name == "metadata" else len(a[name])
            wanted[name] = ("int64", (members, len(_kept(self.header, columns))))
        for name, (dtype, shape) in wanted.items():
            if (str(a[name].dtype), a[name].shape) != (dtype, shape):
                self._corrupt(f"{name} is {a[name].dtype} {a[name].shape}, it goes with {dtype} {shape}")

    def _ends_of(self, name: str) -> npt.NDArray[np.int64]:
        """Where each bucket's members end; their order by bucket is checked."""
        places = buckets_of(np.ascontiguousarray(self._arrays[name][:, 0]))
        if (np.diff(places) < 0).any():
            self._corrupt(f"{name} are not in the order of buckets")
        counts = np.bincount(places, minlength=BUCKETS)
        if name == "weight_id" and not np.array_equal(counts, self._arrays["bucket"][:, 0]):
            self._corrupt("bucket does not say how many of weight_id each bucket has")
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def _counts(self, number: int) -> dict[str, int]:
        counts = {group: int(ends[number + 1] - ends[number]) for group, ends in self._ends.items()}
        return counts | {"tail": tail_members(self.header.rows.tail_rows, number)}

    def _bucket(self, number: int) -> Bucket:
        a = self._arrays
        rows, counters, tombstones = (
            slice(self._ends[group][number], self._ends[group][number + 1]) for group in self._ends
        )
        bucket: Bucket = {array.name: np.zeros(0, array.type) for array in SOMETIMES} | no_tail()
        bucket |= {"ids": a["weight_id"][rows, 0], "values": a["weight"][rows].ravel()}
        bucket |= {"state": a["optimizer_state"][rows].ravel()}
        for name, here in (("metadata", rows), ("counters", counters), ("tombstones", tombstones)):
            for place, column in enumerate(_kept(self.header, _COLUMNS[name])):
                bucket[column] = a[name][here, place].astype(_TYPES[column])
        if self.header.rows.tail_rows:
            bucket |= {"tail_values": a["tail_weight"][number::BUCKETS].ravel()}
            bucket |= {"tail_state": a["tail_state"][number::BUCKETS].ravel()}
            bucket |= {"tail_marks": a["tail_mark"][number::BUCKETS].astype("<u4")}
        return {name: np.ascontiguousarray(array) for name, array in bucket.items()}

    def _corrupt(self, what: str) -> None:
        raise CorruptError(f"{self.path}: {what}: the state is damaged, or of another table")
