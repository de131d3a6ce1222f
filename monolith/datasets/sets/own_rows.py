"""Rows of the user's own Parquet as samples, a batch at a time: what a column of each type becomes, and what is broken.

Only the batch that is read is held, and 8 bytes for each list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from monolith.datasets.sets.buckets import RULES, bucketed
from monolith.datasets.sets.delimited import NUMBER
from monolith.datasets.sets.description import LABEL, LIST, PART, START_MS, TIME, files_like
from monolith.datasets.sets.lines import EXAMPLES, Lines, cell
from monolith.datasets.sets.own_rules import FeatureRule, Own, PartRule
from monolith.errors import ConfigError, CorruptError
from monolith.streaming.codec import MAX_EVENT_TIME_MS
from monolith.streaming.parquet import in_ms, is_moment
from monolith.streaming.units import look_like_ms

_ROWS = 65_536
Kind = tuple[Literal["int", "string"], bool]  # and whether a sample has several
Kinds = Mapping[str, Kind]  # by feature


def read(own: Own, kinds: Kinds, folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """The rows of all files in order; those without a label or a time are broken.

    Raises CorruptError for a file that cannot be read, for a part that the description does not name, and where rows
    of a list do not follow each other.
    """
    first, lists = 0, Lists()
    for path in (path for name in own.files for path in files_like(folder, name)):
        row = 1
        for batch in _batches(path, own.columns()):
            if row == 1:
                _check_unit(own, path, batch)
            table = _samples(own, kinds, batch, first, _Place(path, row, lines))
            yield table if own.lists is None else lists.numbered(table, whole=own.split.kind == "lists")
            first, row = first + batch.num_rows, row + batch.num_rows
    if own.split.kind == "lists":
        lists.check(own.name)


def open_file(path: Path) -> pq.ParquetFile:
    """Raises ConfigError where there is no such file, CorruptError where it is no Parquet."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there, though its description names it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path} cannot be read as Parquet: {error}") from None


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    batches, done = open_file(path).iter_batches(_ROWS, columns=columns), 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            batch.validate(full=True)  # texts that are no UTF-8 too
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(f"{path} cannot be read behind row {done}: {error}") from None
        yield batch
        done += batch.num_rows


class _Place:
    """Where a batch comes from, and which of its rows are broken."""

    def __init__(self, path: Path, row: int, lines: Lines) -> None:
        self._path, self._row, self._lines = path, row, lines

    def usable(self, fit: Any, values: Any, what: str, allowed: str) -> Any:
        """``fit`` (n,), the others rejected with their ``values``."""
        odd = np.flatnonzero(~fit).tolist()
        self._lines.reject_more(len(odd[EXAMPLES:]))
        for place in odd[:EXAMPLES]:
            said = f"{what} is {cell(values[place].as_py())}, allowed is {allowed}"
            self._lines.reject(self._path, self._row + place, said)
        return fit

    def take(self, kept: Any) -> None:
        """Count the rows that are ``kept`` (n,)."""
        self._lines.take(int(kept.sum()))


def _samples(own: Own, kinds: Kinds, batch: pa.RecordBatch, first: int, place: _Place) -> pa.Table:
    values = numbers(batch.column(own.label.column))
    fit = np.isfinite(values) & (np.isin(values, (0, 1)) | (own.label.at_least is not None))
    times, timed = _times(own, batch, first)
    label = "0 or 1, or any number with label.at_least" if own.label.at_least is None else "a number"
    kept = place.usable(fit, batch.column(own.label.column), own.label.column, label)
    if own.time is not None:
        column = own.time.column
        kept = kept & place.usable(timed | ~fit, batch.column(column), column, "a moment from 1970 on") & timed
    place.take(kept)
    columns: dict[str, Any] = {
        LABEL: (values >= (0.5 if own.label.at_least is None else own.label.at_least)).astype(np.int8),
        TIME: times,
        **{feature.name: _feature(feature, kinds[feature.name], batch) for feature in own.rules()},
    }
    if own.lists is not None:
        columns[LIST] = _decoded(batch.column(own.lists))
    if own.part is not None:
        columns[PART] = _parts(own.name, own.part, batch)
    return pa.table(columns).filter(pa.array(kept & ~np.isin(values, own.label.drop)))


def numbers(column: pa.Array) -> Any:
    """(n,) float64; NaN for a null, and for a text that is no number."""
    column = _decoded(column)
    if is_text(column.type):
        column = pc.if_else(pc.match_substring_regex(column, NUMBER), column, None)
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _times(own: Own, batch: pa.RecordBatch, first: int) -> tuple[Any, Any]:
    """Times (n,) in ms, and which rows (n,) have one that an event may have."""
    if own.time is None:
        return START_MS + np.arange(first, first + batch.num_rows), np.ones(batch.num_rows, np.bool_)
    times = in_ms(_decoded(batch.column(own.time.column)), own.time.unit).fill_null(-1).to_numpy()
    return times, (times >= 0) & (times <= MAX_EVENT_TIME_MS)


def _check_unit(own: Own, path: Path, batch: pa.RecordBatch) -> None:
    """Raises ConfigError where all numbers look like those of another unit: no job would take them."""
    if own.time is None or is_moment(value_type(batch.schema.field(own.time.column).type)):
        return
    times, _ = _times(own, batch, 0)
    known = np.flatnonzero(times >= 0)
    if len(known) and not look_like_ms(times[known]).any():
        place = int(known[0])
        value = cell(batch.column(own.time.column)[place].as_py())
        raise ConfigError(
            f"{path}: {own.time.column} is {value} in unit {own.time.unit}, so {times[place]} ms since 1970, which is "
            f"no moment of our time: give time.unit as s, ms, us or ns, as the column has it"
        )


def _feature(feature: FeatureRule, kind: Kind, batch: pa.RecordBatch) -> pa.Array:
    column = _decoded(batch.column(feature.source))
    if feature.bucket is not None:
        return bucketed(column, RULES[feature.bucket])
    to = pa.string() if kind[0] == "string" else pa.int64()
    return _bags(column, to) if kind[1] else column.cast(to, safe=False)  # an unsigned id keeps its 64 bits


def _bags(column: pa.Array, to: pa.DataType) -> pa.Array:
    """Lists of values without nulls in them; a null list stays one."""
    values, owners = _decoded(column.flatten()), pc.list_parent_indices(column)
    there = values.is_valid()
    counts = np.bincount(owners.filter(there).to_numpy(), minlength=len(column))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values.filter(there).cast(to, safe=False), mask=column.is_null())


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _parts(name: str, rule: PartRule, batch: pa.RecordBatch) -> pa.Array:
    words = pa.array([rule.train, rule.valid, rule.test])
    column = _decoded(batch.column(rule.column))
    parts = pc.index_in(column.cast(pa.string()), value_set=words)
    if parts.null_count:
        odd = cell(pc.filter(column, parts.is_null())[0].as_py())
        allowed = ", ".join(words.to_pylist())
        raise CorruptError(f"{name}: {rule.column} is {odd}; allowed is {allowed}, as the description says")
    return parts.cast(pa.int8())


class Lists:
    """Numbers lists in their order: rows with one value that follow each other; a row without any is its own."""

    def __init__(self) -> None:
        self._last: Any = None  # value and time of the list that the last batch broke off in
        self._count = 0
        self._hashes: list[Any] = []

    def numbered(self, table: pa.Table, *, whole: bool) -> pa.Table:
        """``table`` with numbers in place of its lists' values; ``whole``: all rows with the time of their list."""
        if not len(table):
            return table.set_column(table.schema.get_field_index(LIST), LIST, pa.array([], pa.int64()))
        column, times = table[LIST].combine_chunks(), table[TIME].to_numpy().copy()
        codes = column.dictionary_encode().indices.fill_null(-1).to_numpy()
        begins = (np.diff(codes, prepend=codes[0]) != 0) | (codes == -1)
        begins[0] = self._last is None or codes[0] == -1 or column[0].as_py() != self._last[0]
        places = np.cumsum(begins) - 1  # -1: the list of the batch before
        firsts = np.flatnonzero(begins)
        self._hashes.append(_hashes(column.take(pa.array(firsts)).drop_null()))
        if whole:
            starts = np.append(times[firsts], self._last[1] if self._last else 0)  # the last one is at place -1
            times = starts[places]
        numbers_ = places + self._count
        self._last = (column[-1].as_py(), int(times[-1]))
        self._count += len(firsts)
        table = table.set_column(table.schema.get_field_index(LIST), LIST, pa.array(numbers_))
        return table.set_column(table.schema.get_field_index(TIME), TIME, pa.array(times))

    def check(self, name: str) -> None:
        """Raises CorruptError where rows of one list do not follow each other: a part could have the rest of a list."""
        hashes = np.concatenate(self._hashes or [np.zeros(0, np.uint64)])
        again = len(hashes) - len(np.unique(hashes))
        if again:
            raise CorruptError(
                f"{name}: {again:,} of {self._count:,} lists come again behind rows of others, so lists could not be "
                f"kept whole; sort the rows by the column of `lists`, those of one list one after another"
            )


def _hashes(values: pa.Array) -> Any:
    """64 bits of each list's value."""
    return np.array([xxhash.xxh3_64_intdigest(repr(value).encode()) for value in values.to_pylist()], np.uint64)


def value_type(kind: pa.DataType) -> pa.DataType:
    """Of what a dictionary stands for."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Text of any width."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_whole(kind: pa.DataType) -> bool:
    """Integers, truth values, and what is null throughout."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def is_number(kind: pa.DataType) -> bool:
    """Numbers and truth values."""
    return is_whole(kind) or bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))
