"""The words of the stream: what a record holds, what an event says, and what a sample is.

An event travels as one MessagePack or JSON map (a JSON text starts with ``{``, which no MessagePack map does) with a
``type`` and a schema version ``v``. ``docs/formats.md`` lists the fields.
"""

from __future__ import annotations

from typing import Any

import msgspec

EVENT_VERSION = 1
WATERMARK_START = -(2**63)  # before any event
WATERMARK_END = 2**63 - 1  # a bounded stream has ended: nothing waits any more

FeatureValue = int | str | float | bool | list[int] | list[str] | list[float] | dict[str, float] | None

Labels = float | bool | dict[str, float | bool | None]  # of the one task, or by task
Weights = float | dict[str, float]


class FeatureEvent(msgspec.Struct, frozen=True, tag="feature", tag_field="type"):
    """What was known when item ``item_id`` was shown in request ``request_id``."""

    request_id: str
    item_id: str
    event_time_ms: int
    features: dict[str, FeatureValue]
    v: int = EVENT_VERSION


class ActionEvent(msgspec.Struct, frozen=True, tag="action", tag_field="type"):
    """What the user did with an item of a request."""

    request_id: str
    item_id: str
    action: str
    event_time_ms: int
    v: int = EVENT_VERSION
    value: Any = msgspec.UNSET  # a number, where a task takes it; elsewhere nobody looks at it


class SampleEvent(msgspec.Struct, frozen=True, tag="sample", tag_field="type"):
    """Features and labels already joined.

    A job with one task takes a plain label; with several, labels (and weights, which are optional) by task. A task
    without a label learns nothing of the sample.
    """

    request_id: str
    item_id: str
    event_time_ms: int
    features: dict[str, FeatureValue]
    label: Labels
    rate: float = 1.0
    v: int = EVENT_VERSION
    weights: Weights | msgspec.UnsetType = msgspec.UNSET  # unset: every label weighs 1


Event = FeatureEvent | ActionEvent | SampleEvent


class Shown(msgspec.Struct, frozen=True, tag="shown", tag_field="type", gc=False):
    """A feature event that fits the job: its features as one packed row (`monolith.tables.schema`)."""

    request_id: str
    item_id: str
    event_time_ms: int
    row: bytes


class Joined(msgspec.Struct, frozen=True, tag="joined", tag_field="type", gc=False):
    """A joined sample that fits the job: ``row`` is its label block (`monolith.streaming.labels`), then as `Shown`."""

    request_id: str
    item_id: str
    event_time_ms: int
    row: bytes
    label: float  # of the job's first task
    rate: float = 1.0


Decoded = Shown | ActionEvent | Joined  # what a job makes of an event


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a stream. Times are ms since the epoch; ``offset`` counts from 0 within a partition."""

    key: bytes | None
    value: bytes | None
    event_time_ms: int  # the record's own stamp; the event inside has the last word
    ingestion_time_ms: int  # when the log or broker took it
    partition: int
    offset: int
