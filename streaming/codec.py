"""Events to bytes and back, and the check that an event fits the job.

An event is one MessagePack or JSON map; the first byte tells which (``{`` is never the first byte of a MessagePack
map). `encode` and `decode` know nothing of the job. `FeatureDecoder` holds a record against it and names, for
everything that cannot be trained on, a short reason for the dead letter and the metric:

    empty  malformed  unknown_version  unknown_type  missing_field  field_type  wrong_stream  time_unit
    implausible_time  future
    unknown_feature  feature_type  feature_range  feature_weight  label  rate  value
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn

import msgspec

from monolith.config import JobConfig
from monolith.echo import shown
from monolith.errors import EventError
from monolith.events import (
    EVENT_VERSION,
    ActionEvent,
    Decoded,
    Event,
    FeatureEvent,
    Joined,
    Labels,
    Record,
    SampleEvent,
    Shown,
    Weights,
)
from monolith.secrets import scheme
from monolith.streaming.block_decoder import BlockDecoder
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.units import FINER_FROM_MS, TimeUnit, looks_finer, to_ms, unit_detail
from monolith.tables.schema import FeatureSchema, card_features

Stream = Literal["features", "actions", "samples"]

MAX_EVENT_TIME_MS = 253_402_300_799_999  # the end of year 9999; above it somebody mixed up units

_TYPES = ("feature", "action", "sample")
_EVENT_OF = {"features": FeatureEvent, "actions": ActionEvent, "samples": SampleEvent}


class _WireFeature(msgspec.Struct, frozen=True, tag="feature", tag_field="type"):
    request_id: str
    item_id: str
    event_time_ms: int
    features: dict[str, Any]  # held against the job by its `FeatureSchema`
    v: int = EVENT_VERSION


class _WireSample(msgspec.Struct, frozen=True, tag="sample", tag_field="type"):
    request_id: str
    item_id: str
    event_time_ms: int
    features: dict[str, Any]  # held against the job by its `FeatureSchema`
    label: Labels  # held against the job by its `LabelBlocks`
    rate: float = 1.0
    v: int = EVENT_VERSION
    weights: Weights | None = None


_Wire = _WireFeature | ActionEvent | _WireSample

_msgpack_decoder = msgspec.msgpack.Decoder(_Wire)
_json_decoder = msgspec.json.Decoder(_Wire)
_msgpack_encoder = msgspec.msgpack.Encoder()
_json_encoder = msgspec.json.Encoder()


# What msgspec raises for bytes that are no text, nest too deeply, or key a map by a list.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError, OverflowError)


def encode(event: Event, form: Literal["msgpack", "json"] = "msgpack") -> bytes:
    """The event as one map, in declared field order."""
    return (_json_encoder if form == "json" else _msgpack_encoder).encode(event)


def decode(data: bytes) -> Event:
    """The event in ``data``. Raises EventError for bytes that are none, of whatever job."""
    try:
        wire = (_json_decoder if data[:1] == b"{" else _msgpack_decoder).decode(data)
    except msgspec.ValidationError as error:
        _refuse(data, error)
    except _UNDECODABLE as error:
        raise EventError("malformed", f"neither MessagePack nor JSON: {error}; first bytes {data[:16]!r}") from None
    if wire.v != EVENT_VERSION:
        raise _unknown_version(wire.v)
    return _event(wire)


def _event(wire: _Wire) -> Event:
    if isinstance(wire, _WireFeature):
        return FeatureEvent(wire.request_id, wire.item_id, wire.event_time_ms, wire.features)
    if isinstance(wire, _WireSample):
        label = wire.label if isinstance(wire.label, dict) else float(wire.label)
        weights = msgspec.UNSET if wire.weights is None else wire.weights
        key = wire.request_id, wire.item_id, wire.event_time_ms
        return SampleEvent(*key, wire.features, label, wire.rate, weights=weights)
    return wire


def _unknown_version(version: object) -> EventError:
    return EventError("unknown_version", f"the event is of version {shown(version)}, this build reads {EVENT_VERSION}")


def _refuse(data: bytes, error: msgspec.ValidationError) -> NoReturn:
    """Say which rule was broken; the decoder's own word comes last, since it sees the first fault only."""
    try:
        decoder = msgspec.json.decode if data[:1] == b"{" else msgspec.msgpack.decode
        loose = decoder(data)
    except _UNDECODABLE as fault:
        raise EventError("malformed", str(fault)) from None
    if not isinstance(loose, dict):
        raise EventError("malformed", f"an event is a map, this is a {type(loose).__name__}")
    if loose.get("v", EVENT_VERSION) != EVENT_VERSION:
        raise _unknown_version(loose["v"])
    if loose.get("type") not in list(_TYPES):  # it may be of a type that cannot be hashed
        raise EventError("unknown_type", f"type is {shown(loose.get('type'))}, allowed: {', '.join(_TYPES)}")
    reason = "missing_field" if "missing required field" in str(error) else "field_type"
    raise EventError(reason, str(error))


class FeatureDecoder:
    """Decodes the records of one job's streams. Holds no state between calls; any thread may call it."""

    def __init__(self, job: JobConfig) -> None:
        ignore = job.input.unknown_features == "ignore"
        self.schema = FeatureSchema(card_features(job), ignore_unknown=ignore, keep_strings=True)
        self.labels = LabelBlocks(job)
        self._typed = _TypedDecoders(self.schema)
        self._max_future_ms = round(job.input.max_future_s * 1000)
        self._job, self._config = job, job.input

    def decode(self, record: Record, stream: Stream) -> Decoded:
        """The record's event with its features packed, those that the job reads.

        Raises EventError, with one of the reasons that the module lists, if the job cannot use it.
        """
        if not record.value:
            raise EventError("empty", "the record has no value")
        event = self._typed.decode(record.value, stream)
        if event is not None:
            try:
                return self._packed(event, record, stream, self.schema.pack_wire)
            except EventError:  # the slow way finds the reason in the event's own words
                pass
        return self._packed(_decoded_for(stream, record.value), record, stream, self.schema.pack)

    def _packed(self, event: Any, record: Record, stream: Stream, pack: Callable[[Any], bytes]) -> Decoded:
        time_ms = self._in_ms(event.event_time_ms, stream)
        self._check_time(time_ms, record.ingestion_time_ms)
        if stream == "actions":
            value = self.labels.value(event.action, event.value)
            return ActionEvent(event.request_id, event.item_id, event.action, time_ms, value=value)
        key = event.request_id, event.item_id, time_ms
        if stream == "features":
            return Shown(*key, self.labels.shown + pack(event.features))
        weights = None if event.weights is msgspec.UNSET else event.weights
        label, block = self.labels.pack(event.label, weights)
        if not 0.0 < event.rate <= 1.0:
            raise EventError("rate", f"rate is {event.rate!r}, allowed: above 0, at most 1")
        return Joined(*key, block + pack(event.features), label, event.rate)

    def block_decoder(self, stream: Stream) -> BlockDecoder | None:
        """A decoder of blocks to the same events.

        None for a decoder with a `decode` of its own, where strings are kept, and where several labels are gathered.
        """
        if type(self).decode is not FeatureDecoder.decode:
            return None
        if self.labels.gathers and stream != "samples":
            return None  # its rows begin with label blocks, and its actions carry values
        if self.schema.keeps_strings:
            return None  # its rows carry the strings
        latest_ms = MAX_EVENT_TIME_MS
        if self._config.check_time_unit:
            latest_ms = min(latest_ms, FINER_FROM_MS - 1)
        unit = self._unit(stream)
        return BlockDecoder(self._job, self.schema, self.labels, stream, unit=unit, latest_ms=latest_ms)

    def _in_ms(self, time: int, stream: Stream) -> int:
        """An event's time in ms."""
        return time if self._config.time_unit == "ms" else to_ms(time, self._unit(stream))

    def _unit(self, stream: Stream) -> TimeUnit:
        """In which unit the stream's times are; rows of Parquet come in ms."""
        url = getattr(self._config, stream) or self._config.samples or ""
        return "ms" if scheme(url) == "parquet" else self._config.time_unit

    def _check_time(self, event_time_ms: int, ingestion_time_ms: int) -> None:
        if self._config.check_time_unit and looks_finer(event_time_ms):
            raise EventError("time_unit", unit_detail(event_time_ms))
        if not 0 <= event_time_ms <= MAX_EVENT_TIME_MS:
            raise EventError(
                "implausible_time",
                f"event_time_ms is {event_time_ms}, allowed: 0 to {MAX_EVENT_TIME_MS} (ms since 1970); check its unit",
            )
        ahead_ms = event_time_ms - ingestion_time_ms
        if ahead_ms > self._max_future_ms:
            raise EventError(
                "future",
                f"event_time_ms {event_time_ms} is {ahead_ms} ms after the record was taken in, "
                f"input.max_future_s allows {self._max_future_ms} ms",
            )


def _decoded_for(stream: Stream, data: bytes) -> Any:
    event = decode(data)
    if type(event) is not _EVENT_OF[stream]:
        kind = type(event).__name__.removesuffix("Event").lower()
        raise EventError("wrong_stream", f"{kind} events do not belong into the stream of {stream}")
    return event


class _TypedDecoders:
    """Decodes and checks in one pass what fits the job exactly, as nearly all records do; the rest is looked at slowly.

    The types are made from the job's features, so that msgspec checks every value in C.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        features = ("features", schema.wire_type())
        shown: Any = _typed("feature", features)
        labels = ("label", Labels), ("rate", float, 1.0), ("weights", Weights | None, None)
        joined: Any = _typed("sample", features, *labels)
        self._types: dict[Stream, Any] = {"features": shown, "samples": joined, "actions": ActionEvent}
        any_type = shown | joined | ActionEvent  # a single type would do without the tag
        self._from_json = msgspec.json.Decoder(any_type).decode
        self._from_msgpack = msgspec.msgpack.Decoder(any_type).decode

    def decode(self, data: bytes, stream: Stream) -> Any:
        """The event, its features a struct of `FeatureSchema.wire_type`; None: ask `decode` what it is."""
        try:
            event: Any = self._from_json(data) if data[:1] == b"{" else self._from_msgpack(data)
        except _UNDECODABLE:
            return None
        return event if type(event) is self._types[stream] and event.v == EVENT_VERSION else None


def _typed(tag: str, *fields: Any) -> type:
    shared = [("request_id", str), ("item_id", str), ("event_time_ms", int)]
    return msgspec.defstruct(
        tag, [*shared, *fields, ("v", int, EVENT_VERSION)], tag=tag, tag_field="type", frozen=True, gc=False
    )
