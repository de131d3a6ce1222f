from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig
from monolith.errors import EventError
from monolith.events import ActionEvent, FeatureEvent, Record, SampleEvent, Shown
from monolith.streaming.codec import FeatureDecoder, decode, encode

EVENTS = [
    FeatureEvent("r", "i", 5, {"user": 7, "tags": ["a", "b"], "none": None, "weights": {"x": 0.5}}),
    ActionEvent("r", "i", "click", 5),
    SampleEvent("r", "i", 5, {"user": 7}, 1.0, 0.25),
]


def record(value: bytes | None, ingestion_ms: int = 1_000_000) -> Record:
    return Record(b"k", value, 0, ingestion_ms, 0, 0)


def packed(**fields: object) -> bytes:
    whole = {"type": "feature", "request_id": "r", "item_id": "i", "event_time_ms": 5, "features": {"user": 1}}
    return msgspec.msgpack.encode({k: v for k, v in {**whole, **fields}.items() if v is not ...})


@pytest.fixture
def job_of_features(make_job):
    def make(unknown: str = "dead_letter") -> JobConfig:
        tables = [TableConfig(name=name, dim=2) for name in ("user", "word", "tags", "likes")]
        features = [
            FeatureConfig(name="word", type="string"),
            FeatureConfig(name="tags", type="string", bag=True),
            FeatureConfig(name="likes", bag=True),
        ]
        return make_job(tables=tables, features=features, input={"unknown_features": unknown})

    return make


@pytest.fixture
def decoder(job_of_features):
    return FeatureDecoder(job_of_features())


@pytest.fixture
def reason(decoder):
    def of(value: bytes | None, stream: str = "features", ingestion_ms: int = 1_000_000) -> str:
        with pytest.raises(EventError) as caught:
            decoder.decode(record(value, ingestion_ms), stream)
        return caught.value.reason

    return of


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_event_comes_back_as_it_was(event, form):
    assert decode(encode(event, form)) == event


def test_first_byte_tells_json_from_messagepack():
    assert encode(EVENTS[1], "json")[:1] == b"{"
    assert encode(EVENTS[1])[:1] != b"{"


def test_fields_of_a_later_minor_schema_are_ignored():
    assert decode(packed(extra=3)) == FeatureEvent("r", "i", 5, {"user": 1})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xc1\xc1", "malformed"),
        (b"{broken", "malformed"),
        (b"{\xff\xff", "malformed"),
        (packed()[:-3], "malformed"),
        (packed() + b"\x00", "malformed"),
        (msgspec.msgpack.encode([1, 2]), "malformed"),
        (packed(v=2), "unknown_version"),
        (packed(v=2, features=...), "unknown_version"),
        (packed(v="x"), "unknown_version"),
        (packed(type="purchase"), "unknown_type"),
        (packed(type=...), "unknown_type"),
        (packed(request_id=...), "missing_field"),
        (packed(features=...), "missing_field"),
        (packed(request_id=3), "field_type"),
        (packed(event_time_ms="now"), "field_type"),
        (packed(event_time_ms=1.5), "field_type"),
        (packed(features={"user": 1.5}), "feature_type"),
        (packed(features={"user": True}), "feature_type"),
        (packed(features={"user": [[1]]}), "feature_type"),
        (packed(event_time_ms=-1), "implausible_time"),
        (packed(event_time_ms=2**63), "implausible_time"),
        (packed(event_time_ms=1_700_000_000_000_000), "time_unit"),
        (packed(event_time_ms=1_700_000_000_000_000_000), "time_unit"),
        (packed(features={"usr": 1}), "unknown_feature"),
        (packed(features={"user": "seven"}), "feature_type"),
        (packed(features={"user": [1]}), "feature_type"),
        (packed(features={"word": 7}), "feature_type"),
        (packed(features={"tags": ["a", 1]}), "feature_type"),
        (packed(features={"tags": "a"}), "feature_type"),
        (packed(features={"likes": {"a": 1.0}}), "feature_type"),
        (packed(features={"user": 2**63}), "feature_range"),
        (packed(features={"likes": {"1": float("nan")}}), "feature_weight"),
        (packed(features={"likes": {"1": float("inf")}}), "feature_weight"),
        (encode(EVENTS[1]), "wrong_stream"),
        (b"", "empty"),
        (None, "empty"),
    ],
)
def test_bad_record_is_refused_with_its_reason(reason, value, expected):
    assert reason(value) == expected


@pytest.mark.parametrize(("field", "value"), [("label", 0.5), ("label", float("nan")), ("rate", 0.0), ("rate", 1.5)])
def test_sample_with_impossible_label_or_rate_is_refused(reason, field, value):
    sample = msgspec.structs.replace(SampleEvent("r", "i", 5, {"user": 1}, 1.0), **{field: value})
    assert reason(encode(sample), "samples") == field


def test_event_is_from_the_future_by_its_ingestion_time_not_by_now(reason, decoder):
    assert reason(packed(event_time_ms=1_600_001), ingestion_ms=1_000_000) == "future"
    assert decoder.decode(record(packed(event_time_ms=1_600_000), 1_000_000), "features").event_time_ms == 1_600_000


def test_good_features_pass(decoder):
    features = {"user": -1, "word": "w", "tags": ["a"], "likes": {"3": 0.5}}
    for values in (features, {"user": None}, {"likes": [1, 2]}):
        event = decoder.decode(record(packed(features=values)), "features")
        assert event == Shown("r", "i", 5, decoder.schema.pack(values))


WORDS, SMALL, WEIGHTS = st.text(max_size=3), st.integers(-9, 9), st.floats(-9, 9)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=3)
    ),
    max_leaves=5,
)
MAYBE_FIT = st.fixed_dictionaries(
    {},
    optional={
        "user": st.integers(-(2**63), 2**63 - 1) | JUNK,
        "word": st.text(max_size=3) | JUNK,
        "tags": st.lists(st.text(max_size=3), max_size=3)
        | st.dictionaries(st.text(max_size=3), st.floats(-9, 9))
        | JUNK,
        "likes": st.lists(st.integers(-9, 9), max_size=3)
        | st.dictionaries(st.integers(-9, 9), st.floats(-9, 9))
        | JUNK,
        "other": JUNK,
    },
)


def outcome(decode_record: Callable[[], object]) -> object:
    try:
        return decode_record()
    except EventError as error:
        return error.reason, error.detail


@pytest.mark.parametrize("unknown", ["ignore", "dead_letter"])
@pytest.mark.parametrize("form", ["msgpack", "json"])
@given(features=MAYBE_FIT)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fast_and_slow_decoding_come_to_the_same(job_of_features, unknown, form, features):
    decoder = FeatureDecoder(job_of_features(unknown))
    slow = FeatureDecoder(job_of_features(unknown))
    slow._typed.decode = lambda data, stream: None
    whole = {"type": "feature", "request_id": "r", "item_id": "i", "event_time_ms": 5, "features": features}
    try:
        data = msgspec.msgpack.encode(whole) if form == "msgpack" else msgspec.json.encode(whole)
    except (OverflowError, TypeError, ValueError):
        assume(False)
    fast_one, slow_one = (outcome(lambda d=d: d.decode(record(data), "features")) for d in (decoder, slow))
    assert fast_one == slow_one


def test_unknown_features_are_left_out_where_the_job_ignores_them(make_job):
    decoder = FeatureDecoder(make_job(input={"unknown_features": "ignore"}))
    value = packed(features={"user": 1, "other": 2})
    assert decoder.decode(record(value), "features").row == decoder.schema.pack({"user": 1})


@pytest.mark.parametrize(
    "data", [b"\xa2t\xd3I", b"\x91" * 50_000, b'{"a":' * 50_000, b"\x81\x90\x01", b'{"type": ["feature"]}']
)
def test_bytes_that_trip_the_decoder_itself_are_malformed_too(data):
    with pytest.raises(EventError):
        decode(data)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x85\xa4type\xa7feature" + tail))
def test_any_bytes_are_an_event_or_an_event_error(data):
    with suppress(EventError):
        decode(data)


HUGE = "x" * (4 * 2**20)


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("unknown_type", {"type": HUGE}),
        ("unknown_type", {"type": [HUGE]}),
        ("unknown_version", {"v": HUGE}),
        ("field_type", {"event_time_ms": HUGE}),
        ("unknown_feature", {"features": {HUGE: {"a": [1]}}}),
        ("unknown_feature", {"features": {HUGE: 1}}),
        ("feature_type", {"features": {"user": HUGE}}),
        ("feature_type", {"features": {"user": [HUGE]}}),
        ("feature_range", {"features": {"user": 2**63}}),
    ],
)
def test_no_refusal_is_longer_than_a_line_however_large_the_event(form, reason, change):
    event = {"type": "feature", "request_id": "r", "item_id": "i", "event_time_ms": 5, "features": {}, **change}
    data = (msgspec.json if form == "json" else msgspec.msgpack).encode(event)
    job = JobConfig(name="j", input=InputConfig(), tables=[TableConfig(name="user", dim=2)])
    with pytest.raises(EventError) as refused:
        FeatureDecoder(job).decode(Record(None, data, 5, 5, 0, 0), "features")
    assert refused.value.reason == reason
    assert len(str(refused.value)) <= 700
