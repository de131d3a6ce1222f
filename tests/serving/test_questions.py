"""JSON bodies, read in pieces and within limits, against Python's own reader."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monolith.config.job import ServeConfig
from monolith.errors import InputError
from monolith.serving.errors import TooLargeError
from monolith.serving.questions import decode_lookup, decode_samples

LIMITS = ServeConfig(max_rows=3, max_values=8, max_sample_values=5)
ODD = 'a,b:c"d\\,\\'  # everything that means something outside a string


def samples(text: str | bytes, limits: ServeConfig = LIMITS):
    pieces = decode_samples(text.encode() if isinstance(text, str) else text, limits)
    return [sample for piece in pieces for sample in piece]


def body(*samples) -> bytes:
    return json.dumps({"samples": samples}).encode()


def test_samples_are_what_their_text_says():
    sent = ({"user": 1, "tags": ["new", ODD]}, {}, {"tags": {ODD: 1.5}, "movie": None})
    assert samples(body(*sent)) == list(sent)


def test_strings_are_no_values_however_many_commas_they_have():
    tags = ["," * 50, '"' * 9 + "," * 9, "\\" * 8 + ",,,,,,,,,"]
    assert samples(body({"tags": tags})) == [{"tags": tags}]
    question = decode_lookup(json.dumps({"name": "t,:", "values": [ODD * 9] * 3}).encode(), LIMITS)
    assert question.values == [ODD * 9] * 3


def test_as_many_values_as_are_allowed_are_taken_and_one_more_is_not():
    assert len(samples(body({"tags": [1] * 5}, {"tags": [1], "user": 2}, {}))) == 3
    with pytest.raises(
        TooLargeError, match="the samples have more than 8 values, at most 8 are allowed in one request"
    ):
        samples(body({"tags": [1] * 5}, {"tags": [1, 2], "user": 2}, {}))
    with pytest.raises(TooLargeError, match="sample 1 has more than 5 values, at most 5 are allowed in one sample"):
        samples(body({}, {"tags": [1] * 5, "user": 1}))


def test_as_many_ids_as_are_allowed_are_taken_and_one_more_is_not():
    assert len(decode_lookup(b'{"name": "user", "values": [1, 2, 3]}', LIMITS).values) == 3
    for count in (4, 5, 100_000):
        with pytest.raises(TooLargeError, match="3 are allowed"):
            decode_lookup(json.dumps({"name": "user", "values": [1] * count}).encode(), LIMITS)


TWICE = [
    '{"samples": [], "samples": [{"user": 1}]}',
    '{"samples": [{"user": 1, "user": 1}]}',
    '{"samples": [{"user": ":,", "user": 1}]}',
    '{"samples": [{"tags": {"a": 1, "a": 2}}]}',
    '{"samples": [{"us\\u0065r": 1, "user": 2}]}',
]


@pytest.mark.parametrize("text", TWICE)
def test_a_key_that_is_there_twice_is_refused(text):
    with pytest.raises(InputError, match="twice: send it once"):
        samples(text)


def test_a_look_ups_key_that_is_there_twice_is_refused():
    for text in ('{"name": "a", "name": "b", "values": []}', '{"name": "a:b", "values": [":"], "values": []}'):
        with pytest.raises(InputError, match="twice: send it once"):
            decode_lookup(text.encode(), LIMITS)


MALFORMED = [
    b"", b" ", b"null", b"[]", b"{", b"{}", b'{"samples": }', b'{"samples": [1]}', b'{"samples": [[]]}',
    b'{"samples": [{"a": [[1]]}]}', b'{"samples": [{"a": NaN}]}', b'{"samples": [{"a": Infinity}]}',
    b'{"samples": [{"a": {"b": 1e999}}]}', b'{"samples": [{"a": 1e400}]}',
    b'{"samples": [{"a": [[1]]}]}', b'{"samples": [{"a": "\xff"}]}', b'{"samples": [{"\xc3": 1}]}', b"\x1f\x8b\x08\x00",
    b'{"samples": ' + b"[" * 100_000, b'{"samples": [{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    b'{"samples": [' + b'{"a":' * 50_000, b"[" * 100_000, b'{"samples": [{"a": "' + b"\\" * 9999,
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: repr(text[:30]))
def test_malformed_samples_are_an_input_error_that_says_so(text):
    with pytest.raises(InputError, match=r"cannot be read: .*should be like"):
        samples(text)


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: repr(text[:30]))
def test_a_malformed_look_up_is_an_input_error_that_says_so(text):
    with pytest.raises(InputError, match=r"cannot be read: .*should be like"):
        decode_lookup(text.replace(b"samples", b"values"), LIMITS)


_strings = st.text(max_size=6) | st.sampled_from([ODD, ",", ":", '"', "\\", "\ud800"])
_values = (
    st.none()
    | st.integers(-(2**70), 2**70)
    | _strings
    | st.lists(st.integers() | _strings, max_size=7)
    | st.dictionaries(_strings, st.floats() | st.integers(), max_size=7)
    | st.floats()
    | st.booleans()
)


def counted(sample: dict) -> int:
    """Values as the documentation counts them."""
    return sum(max(1, len(value)) if isinstance(value, list | dict) else 1 for value in sample.values()) or 1


@given(st.lists(st.dictionaries(_strings, _values, max_size=4), max_size=5), st.booleans())
def test_what_is_read_is_what_was_sent_and_within_the_limits(sent, ascii_only):
    text = json.dumps({"samples": sent}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        read = samples(text)
    except TooLargeError:
        assert len(sent) > 3 or sum(map(counted, sent)) > 8 or max(map(counted, sent)) > 5
    except InputError:
        return
    else:
        assert read == json.loads(text.decode("utf-8", "surrogatepass"))["samples"]
        assert len(sent) <= 3
        assert sum(map(counted, sent)) <= 8
        assert all(counted(sample) <= 5 for sample in sent)


@given(st.binary(max_size=60) | st.text('{}[]",:\\01eunl samples', max_size=80).map(str.encode))
@example(b'{"samples":[{"a":"' + b'\\"' * 20)
def test_any_bytes_are_read_or_refused_by_an_input_error(text):
    for read in (samples, lambda text: decode_lookup(text, LIMITS)):
        try:
            read(text)
        except InputError:
            continue


def test_what_is_wrong_is_told_shortly_however_long_what_was_sent_is():
    huge = "x" * 1_000_000
    for sent in (
        {"name": "t", "values": [], huge: 1},
        {"name": "t", "values": [[huge]]},
        {"name": [huge], "values": []},
    ):
        with pytest.raises(InputError, match="it should be like") as refused:
            decode_lookup(json.dumps(sent).encode(), LIMITS)
        assert len(str(refused.value)) < 400
