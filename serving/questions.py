"""The JSON bodies of the HTTP interface: read in pieces, and no further than a server's limits.

A *value* of a prediction is a single value, an element of a list, or an entry of a mapping; an empty list, mapping or
sample counts as one. So a body has as many values as it has commas outside its strings, and one more, and is refused
before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import msgspec

from monolith.config.job import ServeConfig
from monolith.echo import clipped
from monolith.errors import InputError
from monolith.serving.candidates import Candidates, has_bags
from monolith.serving.columns import Values
from monolith.serving.errors import TooLargeError
from monolith.serving.scoring import RawCandidates

_T = TypeVar("_T")

JsonList = list[int | float | str | None]
JsonValue = int | float | str | bool | JsonList | dict[str, float] | None  # a feature's value, see `monolith.events`
Sample = dict[str, JsonValue]


class LookupQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Ids of a table, or values of a feature."""

    name: str
    values: list[int | str]


class TogetherQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Ids or values by the name of their table or feature."""

    lookups: dict[str, list[int | str]]


class CandidatesQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Features that all candidates share, and columns of those in which they differ; and when they are shown."""

    candidates: dict[str, list[JsonValue]]
    shared: Sample | msgspec.UnsetType = msgspec.UNSET
    event_time_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class _PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """Feature values as events hold them, one mapping a sample, and when they are shown."""

    samples: list[msgspec.Raw]
    event_time_ms: int | msgspec.UnsetType | None = msgspec.UNSET


_BACKSLASH = ord("\\")
_LOOKUP = '{"name": "user", "values": [17, 42]}'
_PREDICT = '{"samples": [{"user": 17, "movie": 50}]}'

_TOGETHER = '{"lookups": {"user": [17, 42], "tag": ["new"]}}'
_CANDIDATES = '{"shared": {"user": 17}, "candidates": {"movie": [50, 51]}}'

_lookup = msgspec.json.Decoder(LookupQuestion)
_predict = msgspec.json.Decoder(_PredictBody)
_sample = msgspec.json.Decoder(Sample)
_samples = msgspec.json.Decoder(list[Sample])
_together = msgspec.json.Decoder(TogetherQuestion)
_candidates = msgspec.json.Decoder(CandidatesQuestion)
_column = msgspec.json.Decoder(list[JsonValue])
_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])
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


def has_key(data: bytes, key: str) -> bool:
    """Whether a body is a mapping with that key; a body that cannot be read is not."""
    if b'"%s"' % key.encode() not in data:
        return False
    try:
        return key in _keys.decode(data)
    except _UNREADABLE:
        return False


def decode_together(data: bytes, limits: ServeConfig) -> dict[str, list[int | str]]:
    """A look-up's values by name. Raises as ``decode_lookup`` does."""
    if _has_more(b",", 2 * limits.max_rows, data):  # names without values have commas, too
        raise TooLargeError(f"more than {limits.max_rows} rows in one request, at most {limits.max_rows} are allowed")
    lookups = _decoded(_together, data, _TOGETHER, "the body").lookups
    _refuse_repeated_keys(data, 1 + len(lookups), "the body")
    check_rows(sum(map(len, lookups.values())), limits)
    return lookups


def decode_candidates(data: bytes, limits: ServeConfig) -> tuple[Candidates, int | None]:
    """Candidates, and when they are shown. Raises as ``decode_samples`` does, naming the candidate."""
    _refuse_values(data, limits)
    question = _decoded(_candidates, data, _CANDIDATES, "the body")
    shared = {} if question.shared is msgspec.UNSET else question.shared
    optional = (question.shared is not msgspec.UNSET) + (question.event_time_ms is not msgspec.UNSET)
    nested = sum(len(one) for values in question.candidates.values() for one in values if isinstance(one, dict))
    pairs = 1 + optional + _pairs(shared) + len(question.candidates) + nested
    _refuse_repeated_keys(data, pairs, "the body")
    candidates = Candidates(cast(Any, shared), cast(Any, question.candidates))  # a value may be a list of several types
    return _within(candidates, limits), None if question.event_time_ms is msgspec.UNSET else question.event_time_ms


def decode_raw_candidates(raw: RawCandidates, limits: ServeConfig) -> Candidates:
    """Candidates of a binary body. Raises as ``decode_candidates`` does."""
    check_rows(raw.count, limits)
    where = "the shared features"
    shared = _decoded(_sample, raw.shared, '{"user": 17}', where)
    _refuse_repeated_keys(raw.shared, _pairs(shared), where)
    columns = {name: _listed(name, values, raw.count, limits) for name, values in raw.columns.items()}
    return _within(Candidates(cast(Any, shared), columns), limits)


def _listed(name: str, values: Values | bytes, count: int, limits: ServeConfig) -> Values:
    if not isinstance(values, bytes):
        return values
    _refuse_values(values, limits)
    where = f"column {name!r:.80}"
    column = _decoded(_column, values, "[1, null, [2, 3]]", where)
    if len(column) != count:
        raise InputError(f"{where} has {len(column)} values for {count} candidates: send one for each")
    _refuse_repeated_keys(values, sum(len(one) for one in column if isinstance(one, dict)), where)
    return column


def _within(candidates: Candidates, limits: ServeConfig) -> Candidates:
    check_rows(len(candidates), limits)
    shared = sum(map(_size, candidates.shared.values()))
    bags = [[_size(one) for one in values] for values in candidates.columns.values() if has_bags(values)]
    single = len(candidates.columns) - len(bags)
    total = shared + single * len(candidates) + sum(map(sum, bags))
    largest = shared + single + max(map(sum, zip(*bags, strict=True)), default=0)
    for size, most, what in (
        (total, limits.max_values, "request"),
        (largest, limits.max_sample_values, "sample, shared ones included"),
    ):
        if size > most:
            raise TooLargeError(f"the candidates have {size} values, at most {most} are allowed in one {what}")
    return candidates


def _size(value: object) -> int:
    """How many values a feature's value counts as."""
    return max(1, len(value)) if isinstance(value, list | dict) else 1


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
    _refuse_values(data, limits)
    return _decoded(_predict, data, _PREDICT, "the body")


def _refuse_values(data: bytes, limits: ServeConfig) -> None:
    if _has_more(b",", limits.max_values - 1, data):
        raise TooLargeError(
            f"the samples have more than {limits.max_values} values, at most {limits.max_values} are allowed in one "
            "request: split it"
        )


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
