"""Batches written as lists of feature values, for tests of what takes a batch."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from monolith.config import JobConfig, JoinConfig, TaskConfig
from monolith.config.labels import gathers
from monolith.streaming.joined import JoinedSamples
from monolith.streaming.joiner import Joiner, OnShown
from monolith.tables.batch import Batch
from monolith.tables.batch_bytes import to_bytes
from monolith.tables.schema import FeatureSchema, card_features


def batch_of(
    job: JobConfig,
    samples: Sequence[Mapping[str, object]],
    labels: Sequence[float],
    *,
    times_ms: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
) -> Batch:
    """Samples of ``job``; without times they come a millisecond apart."""
    n = len(samples)
    event_time_ms = np.array(range(n) if times_ms is None else times_ms, np.int64)
    schema = FeatureSchema(card_features(job))
    columns = schema.columns_of(samples, event_time_ms)
    return Batch(
        bags=columns.bags,
        dense=columns.dense,
        labels=np.array(labels, np.float32).reshape(n, 1),
        rates=np.ones(n, np.float32) if rates is None else np.array(rates, np.float32),
        event_time_ms=event_time_ms,
        ingestion_time_ms=event_time_ms,
        groups=schema.groups(columns, job.train.group_by, n),
        late=np.zeros(n, np.bool_),
    )


class Seen(NamedTuple):
    """One sample of a step."""

    request_id: str
    item_id: str
    event_time_ms: int
    ingestion_time_ms: int
    ids: dict[str, list[int]]  # by feature
    label: float
    rate: float
    late: bool


def seen(step: Any) -> list[Seen]:
    """The samples of a step, one by one."""
    batch: Batch = step.batch
    ids = {name: np.split(bag.ids, bag.offsets()[1:-1]) for name, bag in batch.bags.items()}
    return [
        Seen(
            *step.keys[i],
            int(batch.event_time_ms[i]),
            int(batch.ingestion_time_ms[i]),
            {name: of_feature[i].tolist() for name, of_feature in ids.items()},
            float(batch.labels[i, 0]),
            float(batch.rates[i]),
            bool(batch.late[i]),
        )
        for i in range(len(batch))
    ]


def told(step: Any) -> tuple[object, ...]:
    """All that a step says, to be compared bit by bit."""
    rest = step.number, step.watermark_ms, step.publish, step.records, step.ended, step.digest
    return to_bytes(step.batch), list(step.keys), *rest


class Plain(NamedTuple):
    """One sample of a joiner whose rows are 8 bytes: a number. ``labels``: of gathered ones, (label, weight) a task."""

    request_id: str
    item_id: str
    event_time_ms: int
    ingestion_time_ms: int
    number: int
    label: float
    rate: float
    late: bool
    labels: tuple[tuple[float, float], ...] = ()


def plain(samples: JoinedSamples, tasks: int = 0) -> list[Plain]:
    """The samples of a joiner whose heads are a label block of so many ``tasks`` and 8 bytes, one by one."""
    heads = np.frombuffer(samples._heads, np.uint8).reshape(-1, 8 * tasks + 8)
    numbers = np.ascontiguousarray(heads[:, 8 * tasks :]).view(np.int64)[:, 0].tolist()
    blocks = np.ascontiguousarray(heads[:, : 8 * tasks]).view(np.float32).reshape(len(heads), 2, tasks).tolist()
    columns = samples.event_time_ms, samples.ingestion_time_ms, samples.labels, samples.rates, samples.late
    times, ingested, labels, rates, late = (column.tolist() for column in columns)
    return [
        Plain(*key, *rest, labels=tuple(zip(*block, strict=True)))
        for key, *rest, block in zip(samples.keys, times, ingested, numbers, labels, rates, late, blocks, strict=True)
    ]


class PlainJoiner(Joiner):
    """A joiner of rows of 8 bytes whose samples come one by one."""

    def __init__(self, config: JoinConfig, on_shown: OnShown | None = None, tasks: Sequence[TaskConfig] = ()) -> None:
        self._blocks = len(tasks) if gathers(tasks) else 0
        super().__init__(config, 8 * self._blocks + 8, on_shown, tasks)

    def advance(self, watermark_ms: int, **times: int) -> list[Plain]:
        return plain(super().advance(watermark_ms, **times), self._blocks)


def row_of(number: int, tasks: Sequence[TaskConfig] = ()) -> bytes:
    """A packed row for a `PlainJoiner`; where it gathers labels, with those of a sample without any action."""
    if not gathers(tasks):
        return struct.pack("<q", number)
    pairs = [unacted(task) for task in tasks]
    labels, weights = zip(*pairs, strict=True)
    return struct.pack(f"<{2 * len(tasks)}fq", *labels, *weights, number)


def unacted(task: TaskConfig) -> tuple[float, float]:
    """Label and weight of a task for which no action came."""
    label = task.default if task.value is not None else 0.0
    return (0.0, 0.0) if label is None else (label, 1.0)
