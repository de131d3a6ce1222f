"""Blocks of records to events: the native decoder for what fits the job, and the codec for each record that does not.

The native decoder takes MessagePack that it has no doubt about, to the same rows, labels and times as `FeatureDecoder`.
Every other record (JSON, an odd type, a rule for missing values that refuses, a name twice, damage) is decoded by
itself, as if there were no block, and keeps its place among the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from monolith.config import JobConfig
from monolith.errors import EventError
from monolith.events import EVENT_VERSION, Decoded, Record
from monolith.streaming import _joiner
from monolith.streaming.event_block import (
    ActionColumns,
    EventBlock,
    JoinedColumns,
    PackedRows,
    ShownColumns,
    Strings,
)
from monolith.streaming.joiner import SAMPLING_SEED
from monolith.streaming.joiner_state import ACTION, JOINED, SHOWN
from monolith.streaming.labels import LARGEST_LABEL, LabelBlocks
from monolith.streaming.record_block import RecordBlock
from monolith.streaming.units import TimeUnit, per_unit
from monolith.tables.batch import Ints
from monolith.tables.columns import MAX_WEIGHT, Dense, IdBag, OneId, PackedColumn, transformed
from monolith.tables.hashing import feature_salt
from monolith.tables.schema import FeatureSchema

Decode = Callable[[Record], Decoded | EventError]

_KINDS = {"features": SHOWN, "actions": ACTION, "samples": JOINED}
_VALUES = ("int", "string", "bool", "float")  # in the order of the native decoder's `Value`
_SINGLE, _BUCKET, _DENSE, _BAG = range(4)
_MOST_MS = 2**62  # beyond every limit on event times
_NAN = float("nan")


class BlockDecoder:
    """Decodes the blocks of one stream. One thread at a time."""

    def __init__(
        self,
        job: JobConfig,
        schema: FeatureSchema,
        labels: LabelBlocks,
        stream: str,
        *,
        unit: TimeUnit,
        latest_ms: int,
    ) -> None:
        """``unit``: of the stream's event times; ``latest_ms``: the newest of them that the job takes."""
        self._kind = _KINDS[stream]
        features = schema.packed if self._kind != ACTION else []
        self._buckets = [column for column in features if isinstance(column, OneId) and column.config.type == "float"]
        self._ids_at = [labels.size + schema.id_place(column.name) for column in self._buckets]
        up, down = per_unit(unit)
        self._native = _joiner.Decoder(
            kind=self._kind,
            features=[_told(column, schema.seed(column.name)) for column in features],
            tasks=[(task.name, task.loss == "log") for task in job.labels] if self._kind == JOINED else [],
            ignores_unknown=job.input.unknown_features == "ignore",
            version=EVENT_VERSION,
            times_up=up,
            times_down=down,
            latest_ms=latest_ms,
            most_ahead_ms=min(round(job.input.max_future_s * 1000), _MOST_MS),
            largest_weight=MAX_WEIGHT,
            largest_label=LARGEST_LABEL,
            sampling_seed=SAMPLING_SEED,
        )

    def blocks(self, records: RecordBlock, decode: Decode) -> Iterator[tuple[int, int, EventBlock | None]]:
        """Runs of ``records`` in order, from a number up to another: the block of their events; None: none fits."""
        block, fit = self._decoded(records, decode)
        turns = [0, *(np.flatnonzero(np.diff(fit)) + 1).tolist(), len(fit)]
        for start, stop in itertools.pairwise(turns):
            if start < stop:
                yield start, stop, block.rows(start, stop) if fit[start] else None

    def _decoded(self, records: RecordBlock, decode: Decode) -> tuple[EventBlock, Any]:
        values = records.values
        (fit, times_ms, heads, bag_data, bag_ends, keys, key_ends, draws, labels, rates, actions, names, numbers) = (
            self._native.decode(values.data, values.ends, records.ingestion_time_ms)
        )
        columns: ShownColumns | ActionColumns | JoinedColumns
        if self._kind == ACTION:
            columns = ActionColumns(actions, tuple(names))
        else:
            self._fill_buckets(heads, numbers)
            packed = PackedRows(heads, Strings(bag_data, bag_ends))
            columns = JoinedColumns(packed, labels, rates) if self._kind == JOINED else ShownColumns(packed, draws)
        return EventBlock(records, times_ms, Strings(keys, key_ends), columns, decode), fit

    def _fill_buckets(self, heads: Any, numbers: Any) -> None:
        """Write the ids of numbers that have one by their interval."""
        if not self._buckets or not len(heads):
            return
        by_row = numbers.reshape(len(heads), len(self._buckets))
        for place, column in enumerate(self._buckets):
            rows = np.flatnonzero(~np.isnan(by_row[:, place]))
            steps = transformed(by_row[rows, place], column.config.transforms)
            ids: Ints = np.searchsorted(column.config.boundaries, steps, side="right").astype("<i8")
            at = self._ids_at[place]
            heads[rows, at : at + 8] = ids.view(np.uint8).reshape(-1, 8)


def _told(column: PackedColumn, seed: str) -> tuple[Any, ...]:
    """What the native decoder must know of a feature."""
    config = column.config
    missing, takes = _asked(column, None)
    ids: list[int] = []
    numbers: list[float] = []
    nan: list[int] = []
    place = _BAG if isinstance(column, IdBag) else _DENSE
    if takes and isinstance(column, IdBag):
        ids = missing[0]
    elif takes and isinstance(column, Dense):
        numbers = missing
    if isinstance(column, OneId):
        place = _BUCKET if config.type == "float" else _SINGLE
        ids = [] if missing is None else [missing]
        of_nan, _ = _asked(column, _NAN)
        nan = [] if of_nan is None else [of_nan]
    return (
        *(column.name, _VALUES.index(config.type), place, config.width, feature_salt(seed)),
        *(takes, ids, numbers, nan),
    )


def _asked(column: PackedColumn, value: object) -> tuple[Any, bool]:
    """What is packed of ``value``, and whether the feature takes it."""
    try:
        return column.pack(value), True
    except EventError:
        return None, False
