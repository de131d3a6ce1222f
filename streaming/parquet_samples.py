"""Rows of Parquet that are joined samples become blocks of columns, without passing through events.

A row gives the same sample, or the same refusal, either way: those that the fast way cannot take (`arrow_columns`) go
through an event by themselves. Which way a row goes depends on the row alone, not on the rows that it is read with.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from monolith.config import InputConfig
from monolith.streaming import arrow_columns
from monolith.streaming.backlog import Polled, Ready
from monolith.streaming.codec import MAX_EVENT_TIME_MS, FeatureDecoder
from monolith.streaming.lanes import Inlet
from monolith.streaming.parquet import ParquetSource, RowReader, Rows
from monolith.streaming.sample_block import Bytes, Pieces, SampleBlock
from monolith.streaming.units import look_like_ms
from monolith.tables.batch import Flags, Ints
from monolith.tables.columns import PackedColumn
from monolith.tables.packing import PackedPiece


class ParquetSamples(Inlet):
    """The inlet of a ``parquet://`` stream with ``label``."""

    def __init__(self, number: int, source: ParquetSource, decoder: FeatureDecoder, config: InputConfig) -> None:
        super().__init__("samples", number, source, decoder, in_order=False)
        self._parquet = source
        self._packer = SamplePacker(source.row_reader, decoder, config)

    def poll(self, most: int, timeout_s: float, partitions: list[int]) -> list[Polled]:  # noqa: ARG002
        """See `Inlet`; never waits."""
        return [item for rows in self._parquet.poll_rows(most) for item in self._items(rows)]

    def _items(self, rows: Rows) -> Iterator[Polled]:
        block, fit = self._packer.pack(rows)
        turns = [0, *(np.flatnonzero(np.diff(fit)) + 1).tolist(), len(fit)]
        for start, stop in itertools.pairwise(turns):
            if start < stop and fit[start]:
                yield block.rows(start, stop)
            elif start < stop:
                some = Rows(rows.first + start, rows.batch.slice(start, stop - start))
                for record in self._parquet.row_reader.records(some):
                    yield Ready(record, self.decode(record))


class SamplePacker:
    """Packs rows for one job."""

    def __init__(self, reader: RowReader, decoder: FeatureDecoder, config: InputConfig) -> None:
        self._columns, self._threshold = reader.columns, reader.threshold
        self._schema, self._blocks = decoder.schema, decoder.labels
        self._checks_unit = config.check_time_unit
        self._takes_names = self._schema.takes_names(reader.columns.features) and not self._schema.keeps_strings
        named = [
            _by_task(self._columns.labels, self._columns.label, self._blocks.names),
            _by_task(self._columns.weights, self._columns.weight, self._blocks.names),
        ]
        self._takes_tasks = None not in named
        self._label_columns, self._weight_columns = (columns or {} for columns in named)

    def pack(self, rows: Rows) -> tuple[SampleBlock, Flags]:
        """The rows as samples (n), and which of them are fit (n,): the others are to be read one by one."""
        batch = rows.batch
        times_ms = batch.column(self._columns.time).to_numpy()
        blocks, fit = self._labels(batch)
        fit = fit & self._plausible(times_ms) & self._takes_names

        def column(feature: PackedColumn) -> PackedPiece:
            piece, takes = arrow_columns.packed(feature, self._values(feature, batch))
            np.logical_and(fit, takes, out=fit)
            return piece

        heads, bag_data, bag_lengths = self._schema.pack_columns(blocks, column)
        labels = self._blocks.first_labels(blocks)
        block = SampleBlock(0, rows.first, times_ms, labels, heads, Pieces(bag_data, bag_lengths), self._keys(rows))
        return block, fit

    def _values(self, feature: PackedColumn, batch: pa.RecordBatch) -> pa.Array:
        """The feature's column; nulls where there is none."""
        name = self._columns.features.get(feature.name)
        return pa.nulls(batch.num_rows) if name is None else batch.column(name)

    def _keys(self, rows: Rows) -> Pieces:
        request = self._columns.request
        numbers = pa.array(np.arange(rows.first, rows.first + rows.batch.num_rows))
        requests = numbers if request is None else rows.batch.column(request)
        items = rows.batch.column(self._columns.item)
        return arrow_columns.interleaved(arrow_columns.texts(requests), arrow_columns.texts(items))

    def _labels(self, batch: pa.RecordBatch) -> tuple[Bytes, Flags]:
        """The label blocks (n, size), and which rows have labels and weights that are surely fit, (n,)."""
        tasks, count = self._blocks.names, batch.num_rows
        labels, weights = np.zeros((count, len(tasks))), np.ones((count, len(tasks)))
        missing, fit = np.ones((count, len(tasks)), np.bool_), np.full(count, self._takes_tasks)
        for task, column in self._label_columns.items():
            numbers, given, null = arrow_columns.labels(batch.column(column))
            if self._threshold is not None:
                numbers = np.where(given, numbers >= self._threshold, 0.0)
            place = tasks.index(task)
            labels[:, place], missing[:, place] = numbers, null
            fit &= given | null if self._columns.labels else given
        for task, column in self._weight_columns.items():
            numbers, given, null = arrow_columns.labels(batch.column(column))
            weights[:, tasks.index(task)] = numbers
            fit &= given | null
        blocks, takes = self._blocks.pack_columns(labels, weights, missing)
        return blocks, fit & takes

    def _plausible(self, times_ms: Ints) -> Flags:
        """Times that are surely in ms, and ones that an event may have."""
        plausible: Flags = (times_ms >= 0) & (times_ms <= MAX_EVENT_TIME_MS)
        return plausible & look_like_ms(times_ms) if self._checks_unit else plausible


def _by_task(columns: dict[str, str], only: str | None, tasks: list[str]) -> dict[str, str] | None:
    """The columns by task, ``only`` being that of the one task; None where the job's tasks are others."""
    if only is not None:
        return {tasks[0]: only} if len(tasks) == 1 else None
    return columns if columns.keys() <= set(tasks) else None
