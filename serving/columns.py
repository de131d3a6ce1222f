"""Columns of feature values in binary bodies: a name, a kind, and the values of all samples one after the other.

::

    u16 length of the name   u16 kind   u32 n   u64 length of the values
    the name (UTF-8)
    the values:   kind 0   n int64
                  kind 1   n u32, the length of each string, and then all strings (UTF-8)
                  kind 2   n float64, NaN: missing
                  kind 3   a JSON list of n values

All little-endian, each part padded with zeros to a multiple of 8 bytes. Kind 3 takes what the others do not: bags,
mappings, booleans, numbers and strings of which some are null.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.serving.aligned import Aligned, ShortError, aligned

INTS, STRINGS, FLOATS, JSON = range(4)
MAX_NAME_BYTES = 2**16 - 1

Values = Sequence[Any] | npt.NDArray[Any]

_HEAD = struct.Struct("<HHIQ")


def encode_column(name: str, values: Values) -> bytes:
    """Raises InputError for values that no kind takes."""
    raw = name.encode("utf-8", "replace")  # a lone surrogate is in no name that a server knows
    if len(raw) > MAX_NAME_BYTES:
        raise InputError(f"the name {name[:40]!r}... has {len(raw)} bytes, at most {MAX_NAME_BYTES} are allowed")
    kind, data = _encoded(name, values)
    return aligned([_HEAD.pack(len(raw), kind, len(values), len(data)), raw, data])


def decode_column(body: Aligned) -> tuple[str, int, Values | bytes]:
    """Name, number of values and values; those of kind 3 still as JSON. Raises ShortError and InputError."""
    name_length, kind, count, size = body.numbers(_HEAD, "a column's head")
    name = body.text(name_length, "a column's name")
    if kind == JSON:
        return name, count, bytes(body.take(size, f"the JSON of {name!r}"))
    values = Aligned(bytes(body.take(size, f"the values of {name!r}")))
    if kind == STRINGS:
        return name, count, _strings(name, count, size, values)
    if kind not in (INTS, FLOATS):
        raise InputError(f"column {name!r:.80} is of kind {kind}, this build reads 0 to 3")
    found = values.array("<i8" if kind == INTS else "<f8", count, f"the values of {name!r}")
    values.finish()
    return name, count, found


def _encoded(name: str, values: Values) -> tuple[int, bytes]:
    if isinstance(values, np.ndarray):
        if values.ndim == 1 and np.can_cast(values.dtype, np.int64, "safe") and values.dtype != np.bool_:
            return INTS, values.astype("<i8").tobytes()
        if values.ndim == 1 and values.dtype.kind == "f":
            return FLOATS, values.astype("<f8").tobytes()
        values = values.tolist()
    types = set(map(type, values))
    try:
        if types <= {int}:
            return INTS, np.array(values, "<i8").tobytes()
        if types == {float}:
            return FLOATS, np.array(values, "<f8").tobytes()
        if types == {str}:
            texts = [value.encode() for value in values]
            return STRINGS, struct.pack(f"<{len(texts)}I", *map(len, texts)) + b"".join(texts)
        return JSON, msgspec.json.encode(list(values))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise InputError(f"the values of {name!r:.80} cannot be sent: {error}") from error


def _strings(name: str, count: int, size: int, values: Aligned) -> list[str]:
    if 4 * count > size:
        raise ShortError(f"the lengths of {name!r:.80} take {4 * count} bytes, {size} are there")
    data = bytes(values.take(size, f"the strings of {name!r}"))
    ends = (4 * count + np.cumsum(np.frombuffer(data, "<u4", count), dtype=np.int64)).tolist()
    if (ends[-1] if ends else 4 * count) != size:
        raise ShortError(f"the strings of {name!r:.80} end at {ends[-1:]}, their bytes at {size}")
    try:
        return [data[start:end].decode() for start, end in zip([4 * count, *ends], ends, strict=False)]
    except UnicodeDecodeError as error:
        raise ShortError(f"a string of {name!r:.80} is not UTF-8: {error}") from error
