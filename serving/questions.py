"""The JSON bodies of the HTTP interface: read in pieces, and no further than a server's limits.

A *value* of a prediction is a single value, an element of a list, or an entry of a mapping; an empty list, mapping or
sample counts as one. So a body has as many values as it has commas outside its strings, and one more, and is refused
before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from monolith.config.job import ServeConfig
from monolith.echo import clipped
from monolith.errors import InputError

_T = TypeVar("_T")

JsonList = list[int | float | str | None]
JsonValue = int | float | str | bool | JsonList | dict[str, float] | None  # a feature's value, see `monolith.events`
Sample = dict[str, JsonValue]


class TooLargeError(InputError):
    """A request asks for more than the server's settings allow."""


class LookupQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Ids of a table, or values of a feature."""

    name: str
    values: list[int | str]


class _PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """Feature values as events hold them, one mapping a sample, and when they are shown."""

    samples: list[msgspec.Raw]
    event_time_ms: int | msgspec.UnsetType | None = msgspec.UNSET


_BACKSLASH = ord("\\")
_LOOKUP = '{"name": "user", "values": [17, 42]}'
_PREDICT = '{"samples": [{"user": 17, "movie": 50}]}'

_lookup = msgspec.json.Decoder(LookupQuestion)
_predict = msgspec.json.Decoder(_PredictBody)
_sample = msgspec.json.Decoder(Sample)
_samples = msgspec.json.Decoder(list[Sample])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

PIECE_BYTES = 16 * 2**10  # or one sample's


def decode_lookup(data: bytes, limits: ServeConfig) -> LookupQuestion:
    """A look-up's question. Raises InputError that says what is wrong and what a good one looks like."""
    if _has_more(b",", limits.max_rows, data):  # one comma is the name's
        raise TooLargeError(f"more than {limits.max_rows} rows in one request, at most {limits.max_rows} are allowed")
    question = _decoded(_lookup, data, _LOOKUP, "the body")
    _refuse_repeated_keys(data, 2, "the body")
    check_rows(len(question.values), limits)
    return question


def decode_samples(data: bytes, limits: ServeConfig) -> Iterator[list[Sample]]:
    """A prediction's samples, some at a time. Raises as ``decode_lookup`` does, naming the sample."""
    body = _predict_body(data, limits)
    raws = body.samples
    check_rows(len(raws), limits)
    first, colons = 0, 1 + (body.event_time_ms is not msgspec.UNSET)
    while first < len(raws):
        texts = _piece(raws, first)
        yield _decoded_piece(texts, first, limits)
        first += len(texts)
        colons += sum(text.count(b":") for text in texts)
    if colons != data.count(b":"):
        raise InputError("the body has a key twice: send it once")


def decode_time(data: bytes, limits: ServeConfig) -> int | None:
    """When a prediction's samples are shown, in ms since the epoch; None: now. Raises as ``decode_samples`` does."""
    time_ms = _predict_body(data, limits).event_time_ms
    return None if time_ms is msgspec.UNSET else time_ms


def _predict_body(data: bytes, limits: ServeConfig) -> _PredictBody:
    """What is in a body, once it is known to be within the limits."""
    if _has_more(b",", limits.max_values - 1, data):
        raise TooLargeError(
            f"the samples have more than {limits.max_values} values, at most {limits.max_values} are allowed in one "
            "request: split it"
        )
    return _decoded(_predict, data, _PREDICT, "the body")


def check_rows(rows: int, limits: ServeConfig) -> None:
    """Raise TooLargeError for more ids or samples than a request may have."""
    if rows > limits.max_rows:
        raise TooLargeError(f"{rows} rows in one request, at most {limits.max_rows} are allowed: split it")


def _piece(raws: list[msgspec.Raw], first: int) -> list[bytes]:
    """The texts of some samples from number ``first`` on."""
    texts: list[bytes] = []
    size = 0
    while first + len(texts) < len(raws) and size < PIECE_BYTES:
        texts.append(bytes(raws[first + len(texts)]))
        size += len(texts[-1])
    return texts


def _decoded_piece(texts: list[bytes], first: int, limits: ServeConfig) -> list[Sample]:
    """Some samples: together if nothing is wrong with them, else one by one, to say which."""
    together = b"[" + b",".join(texts) + b"]"
    if together.count(b",") < limits.max_sample_values:
        try:
            samples = _samples.decode(together)
            if together.count(b":") == sum(map(_pairs, samples)):
                return samples
        except _UNREADABLE:
            pass
    return [_decoded_sample(text, number, limits) for number, text in enumerate(texts, first)]


def _pairs(sample: Sample) -> int:
    """Keys in a sample."""
    pairs = len(sample)
    for value in sample.values():
        if isinstance(value, dict):
            pairs += len(value)
    return pairs


def _decoded_sample(raw: bytes, number: int, limits: ServeConfig) -> Sample:
    where = f"sample {number}"
    if _has_more(b",", limits.max_sample_values - 1, raw):
        raise TooLargeError(
            f"{where} has more than {limits.max_sample_values} values, at most {limits.max_sample_values} are allowed "
            "in one sample: send the newest, or the heaviest"
        )
    sample = _decoded(_sample, raw, _PREDICT, where)
    _refuse_repeated_keys(raw, _pairs(sample), where)
    return sample


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes, example: str, where: str) -> _T:
    try:
        return decoder.decode(data)
    except _UNREADABLE as error:
        raise InputError(f"{where} cannot be read: {clipped(str(error), 200)}; it should be like {example}") from error


def _has_more(mark: bytes, limit: int, data: bytes) -> bool:
    """Whether ``mark``, a comma or a colon, is more than ``limit`` times in a JSON text outside its strings.

    Strings are looked into only where it may be so, and no further than to the limit.
    """
    if data.count(mark) <= limit:
        return False
    seen, at = 0, 0
    for _ in range(3 * limit + 4):  # a sound text has no more strings: two a mapping's entry, one a list's element
        opening = data.find(b'"', at)
        seen += data.count(mark, at, opening if opening >= 0 else len(data))
        if opening < 0 or seen > limit:
            return seen > limit
        at = _after_string(data, opening)
    return True


def _after_string(data: bytes, opening: int) -> int:
    """Where the string that begins at ``opening`` has ended; the text's end if it never does."""
    closing = opening
    while (closing := data.find(b'"', closing + 1)) >= 0:
        before = closing - 1
        while data[before] == _BACKSLASH:
            before -= 1
        if (closing - before) % 2:  # an even number of backslashes
            return closing + 1
    return len(data)


def _refuse_repeated_keys(data: bytes, pairs: int, where: str) -> None:
    """Raise InputError if the text has more keys than the ``pairs`` that it was decoded to.

    JSON leaves the meaning of a key that is there twice to its reader.
    """
    if _has_more(b":", pairs, data):
        raise InputError(f"{where} has a key twice: send it once")
