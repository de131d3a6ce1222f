"""The binary bodies of a look-up of several names: version 2 of those in `body`.

::

    request   "MLKQ"  u16 version (2)  u16 number of names k  u64 zero
              k columns (``columns``), of integers or of strings
    response  "MLKR"  u16 version (2)  u16 k  u64 zero  u64 generation  u64 sequence
              k times: u32 n  u32 dim, n * dim float32, n bytes: 1 if the value has a row of its own, else 0

All little-endian, each part padded with zeros to a multiple of 8 bytes; answers in the order of the questions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.serving.aligned import Aligned, ShortError, aligned
from monolith.serving.columns import Values as ColumnValues
from monolith.serving.columns import decode_column, encode_column
from monolith.serving.errors import BrokenAnswerError

VERSION = 2

_REQUEST = struct.Struct("<4sHHQ")
_RESPONSE = struct.Struct("<4sHHQQQ")
_ROWS = struct.Struct("<II")

Questions = Mapping[str, Sequence[int] | Sequence[str] | npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Embeddings, and which of their values have rows of their own."""

    values: npt.NDArray[np.float32]  # (n, dim); a value without a row has zeros, or the row that it shares
    found: npt.NDArray[np.bool_]  # (n,)


@dataclass(frozen=True, slots=True)
class TogetherAnswer:
    """Rows of several names, and the one version that all of them are of."""

    generation: int
    sequence: int
    rows: dict[str, FoundRows]  # in the order of the questions


def is_together(data: bytes) -> bool:
    """Whether a request's body is one of these, and not one of version 1."""
    return data[:6] == b"MLKQ" + VERSION.to_bytes(2, "little")


def encode_request(questions: Questions) -> bytes:
    """Raises InputError for values that are neither integers nor strings."""
    if len(questions) > 2**16 - 1:
        raise InputError(f"{len(questions)} names in one question, at most {2**16 - 1} are allowed")
    columns = [encode_column(name, values) for name, values in questions.items()]
    return _REQUEST.pack(b"MLKQ", VERSION, len(columns), 0) + b"".join(columns)


def decode_request(data: bytes) -> dict[str, ColumnValues]:
    """Values by name. Raises InputError for anything else than such a body."""
    questions: dict[str, ColumnValues] = {}
    try:
        body = Aligned(data)
        magic, version, names, _ = body.numbers(_REQUEST, "the header")
        if magic != b"MLKQ" or version != VERSION:
            raise InputError(f"the body begins with {magic!r} version {version}, not with b'MLKQ' version {VERSION}")
        for _ in range(names):
            name, _, values = decode_column(body)
            if name in questions:
                raise InputError(f"the body asks for {name!r:.80} twice: ask once")
            if isinstance(values, bytes) or (isinstance(values, np.ndarray) and values.dtype != np.int64):
                raise InputError(f"a look-up takes integers or strings, the values of {name!r:.80} are neither")
            questions[name] = values
        body.finish()
    except ShortError as error:
        raise InputError(f"the body cannot be read: {error}") from error
    return questions


def encode_response(answer: TogetherAnswer) -> bytes:
    """The rows as they go out."""
    parts = [_RESPONSE.pack(b"MLKR", VERSION, len(answer.rows), 0, answer.generation, answer.sequence)]
    for rows in answer.rows.values():
        parts += [
            _ROWS.pack(*rows.values.shape),
            np.ascontiguousarray(rows.values, "<f4").tobytes(),
            rows.found.astype(np.uint8).tobytes(),
        ]
    return aligned(parts)


def decode_response(data: bytes, names: Sequence[str], where: str) -> TogetherAnswer:
    """What ``encode_response`` wrote; arrays are read-only. Raises BrokenAnswerError for anything else."""
    try:
        body = Aligned(data)
        magic, version, count, _, generation, sequence = body.numbers(_RESPONSE, "the header")
        if magic != b"MLKR" or version != VERSION or count != len(names):
            raise ShortError(f"it begins with {magic!r} version {version} for {count} names, not {len(names)}")
        rows = {name: _found_rows(body, name) for name in names}
        body.finish()
    except ShortError as error:
        raise BrokenAnswerError(f"the answer of {where} cannot be read: {error}") from error
    return TogetherAnswer(generation, sequence, rows)


def _found_rows(body: Aligned, name: str) -> FoundRows:
    count, dim = body.numbers(_ROWS, f"the head of {name!r}")
    values = body.array("<f4", count * dim, f"the rows of {name!r}").reshape(count, dim)
    return FoundRows(values, body.array("u1", count, f"the mask of {name!r}") != 0)
