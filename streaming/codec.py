"""Events to bytes and back, and the check that an event fits the job.

An event is one MessagePack or JSON map; the first byte tells which (``{`` is never the first byte of a MessagePack
map). `encode` and `decode` know nothing of the job. `FeatureDecoder` holds a record against it and names, for
everything that cannot be trained on, a short reason for the dead letter and the metric:

    empty  malformed  unknown_version  unknown_type  missing_field  field_type  wrong_stream  time_unit
    implausible_time  future
    unknown_feature  feature_type  feature_range  feature_weight  label  rate
"""

from __future__ import annotations

from typing import Literal, NoReturn, TypeVar

import msgspec

from monolith.config import JobConfig
from monolith.echo import shown
from monolith.errors import EventError
from monolith.events import EVENT_VERSION, ActionEvent, Event, FeatureEvent, FeatureValue, Record, SampleEvent
from monolith.streaming.units import looks_finer, to_ms, unit_detail
from monolith.tables.features import FeatureEncoder, card_features

Stream = Literal["features", "actions", "samples"]
_Features = TypeVar("_Features", FeatureEvent, SampleEvent)

MAX_EVENT_TIME_MS = 253_402_300_799_999  # the end of year 9999; above it somebody mixed up units

_TYPES = ("feature", "action", "sample")
_EVENT_OF = {"features": FeatureEvent, "actions": ActionEvent, "samples": SampleEvent}

# What a feature may be on the wire. Lists are checked against the job later: msgspec tells no two lists apart.
_WireValue = int | str | list[int | str] | dict[str, float] | None


class _WireFeature(msgspec.Struct, frozen=True, tag="feature", tag_field="type"):
    request_id: str
    item_id: str
    event_time_ms: int
    features: dict[str, _WireValue]
    v: int = EVENT_VERSION


class _WireSample(msgspec.Struct, frozen=True, tag="sample", tag_field="type"):
    request_id: str
    item_id: str
    event_time_ms: int
    features: dict[str, _WireValue]
    label: float
    rate: float = 1.0
    v: int = EVENT_VERSION


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
        features: dict[str, FeatureValue] = wire.features  # type: ignore[assignment]  # lists are checked by the job
        return FeatureEvent(wire.request_id, wire.item_id, wire.event_time_ms, features)
    if isinstance(wire, _WireSample):
        features = wire.features  # type: ignore[assignment]
        return SampleEvent(wire.request_id, wire.item_id, wire.event_time_ms, features, wire.label, wire.rate)
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
        self._read = frozenset(job.feature_names())
        self._encoder = FeatureEncoder(card_features(job), ignore_unknown=job.input.unknown_features == "ignore")
        self._max_future_ms = round(job.input.max_future_s * 1000)
        self._config = job.input

    def decode(self, record: Record, stream: Stream) -> Event:
        """The record's event, holding only features that the job reads.

        Raises EventError, with one of the reasons that the module lists, if the job cannot use it.
        """
        if not record.value:
            raise EventError("empty", "the record has no value")
        event = decode(record.value)
        if type(event) is not _EVENT_OF[stream]:
            kind = type(event).__name__.removesuffix("Event").lower()
            raise EventError("wrong_stream", f"{kind} events do not belong into the stream of {stream}")
        event = self._in_ms(event, stream)
        self._check_time(event.event_time_ms, record.ingestion_time_ms)
        if isinstance(event, SampleEvent):
            _check_label(event)
        return event if isinstance(event, ActionEvent) else self._known_features(event)

    def _in_ms(self, event: Event, stream: Stream) -> Event:
        """``event`` with its time in ms; rows of Parquet come so."""
        config = self._config
        url = getattr(config, stream) or config.samples or ""
        if config.time_unit == "ms" or url.startswith("parquet://"):
            return event
        return msgspec.structs.replace(event, event_time_ms=to_ms(event.event_time_ms, config.time_unit))

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

    def _known_features(self, event: _Features) -> _Features:
        self._encoder.validate(event.features)
        if event.features.keys() <= self._read:
            return event
        return msgspec.structs.replace(event, features={k: v for k, v in event.features.items() if k in self._read})


def _check_label(event: SampleEvent) -> None:
    if event.label not in (0.0, 1.0):
        raise EventError("label", f"label is {event.label!r}, allowed: 0 and 1")
    if not 0.0 < event.rate <= 1.0:
        raise EventError("rate", f"rate is {event.rate!r}, allowed: above 0, at most 1")
