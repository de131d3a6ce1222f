"""The JSON bodies of the HTTP interface."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from monolith.errors import InputError

_T = TypeVar("_T")

JsonValue = int | str | list[int | str] | dict[str, float] | None  # a feature's value, see ``monolith.events``


class LookupQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Ids of a table, or values of a feature."""

    name: str
    values: list[int | str]


class PredictQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """Feature values as events hold them, one mapping a sample."""

    samples: list[dict[str, JsonValue]]


_EXAMPLES: dict[type, str] = {
    LookupQuestion: '{"name": "user", "values": [17, 42]}',
    PredictQuestion: '{"samples": [{"user": 17, "movie": 50}]}',
}


def decode_question(data: bytes, kind: type[_T]) -> _T:
    """The question in a JSON body. Raises InputError that says what is wrong and what a good one looks like."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the body cannot be read: {error}; it should be like {_EXAMPLES[kind]}") from error
