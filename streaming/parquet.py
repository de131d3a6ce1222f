"""``parquet://PATH?...``: rows of a Parquet file, or of a folder's files in order of name, as events. Bounded.

Which columns mean what is said in the URL:

    time=COLUMN       event time; a number in ``unit``, or a timestamp (of any unit) or date column (required)
    unit=ms|s|us|ns   unit of a numeric time column (ms)
    request=COLUMN    request id; default: the row's number
    item=COLUMN       item id (required)
    features=A,B      columns that become features; ``NAME:COLUMN`` renames one
    label=COLUMN      rows become joined samples with this label; ``TASK:COLUMN,TASK:COLUMN`` gives one a task
    weight=COLUMN     with ``label``: how much the label counts; named like the labels, by task
    action=COLUMN     rows become actions; the column holds the name of the action
    threshold=X       with one ``label``: 1 where the column is at least X. With ``action``: only such rows are actions
    name=WORD         with ``action`` and ``threshold``: the action's name instead of the column's value

Rows are read in the order of the file: sort them by time. Rows that are not sorted are trained as they come, whatever
their times, and one warning says so; none is refused for being ahead of the others.

Neither ``label`` nor ``action``: rows become feature events. There is one partition, and the offset is the row number.
A row's time of ingestion is its event time. A null feature is a missing one, and so is a null label by task.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monolith.errors import ConfigError, CorruptError, DataLossError
from monolith.events import ActionEvent, Event, FeatureEvent, FeatureValue, Record, SampleEvent, Weights
from monolith.streaming.codec import encode
from monolith.streaming.parquet_columns import columns_of
from monolith.streaming.parquet_mark import MOST_ROWS, is_same, mark_of
from monolith.streaming.source import OnDataLoss, StreamUrl

log = logging.getLogger(__name__)

_OPTIONS = ("time", "unit", "request", "item", "features", "label", "weight", "action", "threshold", "name")
_BATCH_ROWS = 4096
_INT_LEAST, _INT_END = -(2.0**63), 2.0**64  # integers that an event can carry
_MOST_MS = 2**62  # far beyond any event time, yet within 64 bits
_TO_MS = {"ms": (1, 1), "s": (1000, 1), "us": (1, 1000), "ns": (1, 1_000_000)}  # multiply, then divide


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows, the number of the first, and their times in ms."""

    first: int
    batch: pa.RecordBatch

    def cut(self, most: int) -> tuple[Rows, Rows | None]:
        """Up to ``most`` rows, and those behind them, if any."""
        if self.batch.num_rows <= most:
            return self, None
        return Rows(self.first, self.batch.slice(0, most)), Rows(self.first + most, self.batch.slice(most))


class ParquetSource:
    """Reads rows in file order, one row group at a time."""

    def __init__(self, url: StreamUrl, *, on_data_loss: OnDataLoss = "stop") -> None:
        """Raises ConfigError for a file or column that is not there, CorruptError for a file that is no Parquet."""
        url.check_options(_OPTIONS)
        self.name = url.name
        self.bounded = True
        self.skipped = 0
        self._skip = on_data_loss == "skip"
        self.missing: str | None = None
        self.row_reader = RowReader(url)
        self._files = [_open_file(path) for path in _paths(url)]
        for file in self._files:
            _check_columns(url, file)
        self._end: int = sum(file.metadata.num_rows for file in self._files)
        self._position = 0
        self._is_other = False  # other files were found: what `seek` is told is none of their rows
        self._last_ms = -1  # of the row before
        self._is_sorted = True  # as far as it was read
        self._records: Iterator[Record] | None = None  # by `poll`
        self._batches: Iterator[Rows] | None = None  # by `poll_rows`
        self._rest: Rows | None = None  # of the last of them

    def partitions(self) -> list[int]:
        """See `Source`."""
        return [0]

    def poll(
        self,
        max_records: int,
        timeout_s: float,  # noqa: ARG002
        partitions: Collection[int] | None = None,
    ) -> list[Record]:
        """See `Source`; never waits. Rows that are no action (below ``threshold``) have no value and no record."""
        if partitions is not None and 0 not in partitions:
            return []
        if self._records is None:
            self._records = self._records_from(self._position)
        try:
            taken = list(islice(self._records, max_records))
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(f"{self.name} cannot be read behind row {self._position}: {error}") from None
        self._position = taken[-1].offset + 1 if len(taken) == max_records else self._end
        return taken

    def poll_rows(self, max_rows: int) -> list[Rows]:
        """The next ``max_rows`` rows, fewer at the end, times in ms. Not to be mixed with `poll`.

        Raises CorruptError as `poll` does.
        """
        if self._batches is None:
            self._batches = self._batches_from(self._position)
        taken: list[Rows] = []
        count = 0
        while count < max_rows and (rows := self._rest or self._read(self._batches)) is not None:
            part, self._rest = rows.cut(max_rows - count)
            taken.append(part)
            count += part.batch.num_rows
        self._position += count
        return taken

    def _read(self, batches: Iterator[Rows]) -> Rows | None:
        try:
            return next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(f"{self.name} cannot be read behind row {self._position}: {error}") from None

    def _records_from(self, offset: int) -> Iterator[Record]:
        for rows in self._batches_from(offset):
            yield from self.row_reader.records(rows)

    def _batches_from(self, offset: int) -> Iterator[Rows]:
        """The rows from ``offset`` on; row groups before it are not read."""
        row = 0
        for file in self._files:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows > offset:
                    yield from self._group(file, group, row, offset)
                row += rows

    def _group(self, file: pq.ParquetFile, group: int, first: int, offset: int) -> Iterator[Rows]:
        row = first
        columns = self.row_reader.columns.names()
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
            skip = min(max(0, offset - row), batch.num_rows)
            batch.validate(full=True)  # texts that are not UTF-8 too
            rows = _with_times_in_ms(batch.slice(skip), self.row_reader.columns.time, self.row_reader.unit)
            self._look_at_order(rows.column(self.row_reader.columns.time), row + skip)
            yield Rows(row + skip, rows)
            row += batch.num_rows

    def _look_at_order(self, times: pa.Array, first: int) -> None:
        """Warn once if the rows from number ``first`` on are not in order of time."""
        ms = times.to_numpy()
        rows = np.flatnonzero(ms >= 0)  # the others have no time
        if not self._is_sorted or not len(rows):
            return
        behind = np.flatnonzero(np.diff(ms[rows], prepend=self._last_ms) < 0)
        if len(behind):
            row = rows[behind[0]]
            log.warning(
                "%s is not in order of time: row %d is of %d ms, the one before it of a later time. The rows are "
                "trained in the order of the file; sort it by the column %r to have them trained as they happened",
                *(self.name, first + row, ms[row], self.row_reader.columns.time),
            )
            self._is_sorted = False
        self._last_ms = int(ms[rows[-1]])

    def position(self) -> dict[int, int]:
        """See `Source`."""
        return {0: self._position}

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`. Raises DataLossError for a row behind the end: the files were replaced by shorter ones."""
        if 0 in positions and not self._is_other:
            if positions[0] > self._end:
                raise DataLossError(
                    f"{self.name} has {self._end:,} rows, and the run goes on at row {positions[0]:,}: its files were "
                    f"replaced or cut. Put them back, or give the job a new `state`"
                )
            self._position = positions[0]
            self._last_ms = -1
            self._records = self._batches = self._rest = None

    def mark(self) -> str | None:
        """See `MarkedSource`: times, items and labels of the first rows."""
        self._is_other = False
        return self._mark(MOST_ROWS)

    def _mark(self, rows: int) -> str | None:
        columns = self.row_reader.columns
        one = [name for name in (columns.time, columns.item, columns.label) if name is not None]
        return mark_of(self._files[0], [*one, *columns.labels.values()], rows)

    def expect(self, mark: str) -> None:
        """See `MarkedSource`."""
        if is_same(mark, self._mark):
            return
        text = f"{self.name}: its first rows are not those that the run read, its files were replaced"
        if not self._skip:
            raise DataLossError(
                f"{text}. Put them back, or give the job a new `state`; on_data_loss: skip reads the new ones from the "
                f"first row"
            )
        log.warning("data loss, reading from the first row: %s", text)
        self._is_other = True

    def end_position(self) -> dict[int, int]:
        """See `Source`; exact."""
        return {0: self._end}

    def lag(self) -> int:
        """See `Source`; in rows."""
        return self._end - self._position

    def commit(self, positions: Mapping[int, int]) -> None:
        """A file keeps nobody's position."""

    def close(self) -> None:
        """See `Source`."""
        for file in self._files:
            file.close()


class RowReader:
    """Makes a record of a row, by the columns that the URL names."""

    def __init__(self, url: StreamUrl) -> None:
        self.columns = columns_of(url)
        self.unit = url.choice("unit", tuple(_TO_MS))
        self.threshold = url.number("threshold", float, least=float("-inf"))
        self._action = url.options.get("name")

    def records(self, rows: Rows) -> Iterator[Record]:
        """Those of ``rows`` that are one."""
        for number, values in enumerate(rows.batch.to_pylist(), start=rows.first):
            record = self._record(number, values)
            if record is not None:
                yield record

    def _record(self, row: int, values: dict[str, Any]) -> Record | None:
        """The row as a record, None where it is none (an action below the threshold)."""
        event_time_ms = values[self.columns.time]
        event = self._event(row, values, event_time_ms)
        if event is None:
            return None
        return Record(event.request_id.encode(), encode(event), event_time_ms, event_time_ms, 0, row)

    def _event(self, row: int, values: dict[str, Any], event_time_ms: int) -> Event | None:
        columns = self.columns
        request_id = str(row if columns.request is None else values[columns.request])
        item_id = str(values[columns.item])
        if columns.action is not None:
            value = values[columns.action]
            if value is None or (self.threshold is not None and not float(value) >= self.threshold):
                return None
            return ActionEvent(request_id, item_id, self._action or str(value), event_time_ms)
        features = {name: _feature(values[column]) for name, column in columns.features.items()}
        key = request_id, item_id, event_time_ms
        if columns.labels:
            labels = {task: _number(values[column]) for task, column in columns.labels.items()}
            return SampleEvent(*key, features, labels, weights=self._weights(values))
        if columns.label is None:
            return FeatureEvent(*key, features)
        return SampleEvent(*key, features, self._label(values[columns.label]), weights=self._weights(values))

    def _weights(self, values: dict[str, Any]) -> Weights | msgspec.UnsetType:
        """A null weighs nothing."""
        if self.columns.weight is not None:
            return _number(values[self.columns.weight]) or 0.0
        by_task = {task: _number(values[column]) or 0.0 for task, column in self.columns.weights.items()}
        return by_task or msgspec.UNSET

    def _label(self, value: Any) -> float:
        """A null is not a number, and so a dead letter."""
        number = float("nan") if value is None else float(value)
        if self.threshold is None or value is None:
            return number
        return 1.0 if number >= self.threshold else 0.0


def _number(value: Any) -> float | None:
    """A cell as a label or a weight; what is no number is a dead letter."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _with_times_in_ms(batch: pa.RecordBatch, column: str, unit: str) -> pa.RecordBatch:
    """``batch`` with int64 ms since the epoch in ``column``; a null is -1, and so a dead letter."""
    index = batch.schema.get_field_index(column)
    return batch.set_column(index, column, in_ms(batch.column(index), unit).fill_null(-1))


def in_ms(times: pa.Array, unit: str) -> pa.Array:
    """Timestamps, dates, or numbers in ``unit``, as int64 ms since the epoch; null where that is no such number."""
    if is_moment(times.type):
        return times.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())  # safe: a fraction of a ms is an error
    return _numbers_in_ms(times, *_TO_MS[unit])


def _numbers_in_ms(times: pa.Array, up: int, down: int) -> pa.Array:
    """Numbers times ``up``, divided by ``down``, as int64; null where that is no number of 64 bits."""
    if pa.types.is_integer(times.type):
        whole = times.cast(pa.int64(), safe=False)  # what is beyond 2^63 becomes negative, and so a dead letter
        most = _MOST_MS // up
        fits = pc.and_(pc.less(whole, most), pc.greater(whole, -most))
        return pc.divide(pc.multiply(pc.if_else(fits, whole, None), up), down)
    ms = pc.round(pc.divide(pc.multiply(times.cast(pa.float64()), up), down))
    return pc.if_else(pc.less(pc.abs(ms), float(_MOST_MS)), ms, None).cast(pa.int64())  # NaN is not less


def is_moment(kind: pa.DataType) -> bool:
    """Timestamps of any unit, and dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _feature(value: Any) -> FeatureValue:
    """A cell as a feature value; what no feature can be is left to the decoder, which names it."""
    if isinstance(value, float) and value.is_integer() and _INT_LEAST <= value < _INT_END:
        return int(value)  # integers beside nulls are often stored as floats
    return cast(FeatureValue, value)


def _paths(url: StreamUrl) -> list[Path]:
    place = Path(url.place)
    paths = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not paths or not paths[0].is_file():
        raise ConfigError(f"{url.name}: there is no such file, nor a folder with *.parquet files")
    return paths


def _open_file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path} cannot be read as Parquet: {error}{_hint(path)}") from None


def _hint(path: Path) -> str:
    """How a file that is text, by its name, becomes Parquet."""
    module = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}.get(path.suffix.lower())
    if module is None:
        return ""
    made = path.with_suffix(".parquet").name
    return (
        f' Make it Parquet first: python -c "from pyarrow import {module}, parquet; '
        f"parquet.write_table({module}.read_{module}('{path.name}'), '{made}')\""
    )


def _check_columns(url: StreamUrl, file: pq.ParquetFile) -> None:
    there = file.schema_arrow.names
    for column in columns_of(url).names():
        if column not in there:
            raise ConfigError(f"{url.name} has no column {column!r}; it has {', '.join(there)}")
    kind = file.schema_arrow.field(url.options["time"]).type
    if not (is_moment(kind) or _is_number(kind)):
        raise ConfigError(
            f"{url.name}: the time column {url.options['time']!r} is of type {kind}; allowed: a timestamp, a date, or "
            f"a number in `unit`"
        )
