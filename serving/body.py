"""The binary bodies of HTTP look-ups, ``Content-Type: application/x-monolith``: no JSON between a service and a row.

::

    request   "MLKQ"  u16 version (1)  u16 length of the name  u32 n  u32 zero
              the name (UTF-8), zeros up to a multiple of 8, n int64 ids
    response  "MLKR"  u16 version (1)  u16 zero  u32 n  u32 dim  u64 generation  u64 sequence
              n * dim float32

All little-endian. The name is a table's, or a feature's whose values are integers; an id without a row has zeros.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError, InputError

CONTENT_TYPE = "application/x-monolith"
BODY_VERSION = 1
MAX_NAME_BYTES = 2**16 - 1

_REQUEST = struct.Struct("<4sHHII")
_RESPONSE = struct.Struct("<4sHHIIQQ")

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LookupAnswer:
    """Rows, and the version that they are of."""

    generation: int
    sequence: int
    values: Values  # (n, dim)


def encode_request(name: str, ids: Ids) -> bytes:
    """A look-up of ``ids`` (n,) in table or feature ``name``. Raises InputError for too long a name."""
    raw = name.encode("utf-8", "replace")  # a lone surrogate is in no name that a server knows
    if len(raw) > MAX_NAME_BYTES:
        raise InputError(f"the name {name[:40]!r}... has {len(raw)} bytes, at most {MAX_NAME_BYTES} are allowed")
    header = _REQUEST.pack(b"MLKQ", BODY_VERSION, len(raw), len(ids), 0)
    return header + raw + bytes(-len(raw) % 8) + np.ascontiguousarray(ids, "<i8").tobytes()


def decode_request(data: bytes) -> tuple[str, Ids]:
    """Name and ids. Raises InputError for anything else."""
    if len(data) < _REQUEST.size:
        raise InputError(f"the body has {len(data)} bytes, its header alone takes {_REQUEST.size}")
    magic, version, name_length, count, _ = _REQUEST.unpack_from(data)
    if magic != b"MLKQ" or version != BODY_VERSION:
        raise InputError(f"the body begins with {magic!r} version {version}, not with b'MLKQ' version {BODY_VERSION}")
    start = _REQUEST.size + name_length + -name_length % 8
    if len(data) != start + 8 * count:
        raise InputError(
            f"the body has {len(data)} bytes, {count} ids for a name of {name_length} take {start + 8 * count}"
        )
    try:
        name = data[_REQUEST.size : _REQUEST.size + name_length].decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the name in the body is not UTF-8: {error}") from error
    return name, np.frombuffer(data, "<i8", count, start)


def encode_response(answer: LookupAnswer) -> bytes:
    """The rows as they go out."""
    rows, dim = answer.values.shape
    header = _RESPONSE.pack(b"MLKR", BODY_VERSION, 0, rows, dim, answer.generation, answer.sequence)
    return header + np.ascontiguousarray(answer.values, "<f4").tobytes()


def decode_response(data: bytes, where: str) -> LookupAnswer:
    """What ``encode_response`` wrote; ``values`` is read-only. Raises CorruptError for anything else."""
    if len(data) < _RESPONSE.size:
        raise CorruptError(f"the answer of {where} has {len(data)} bytes, its header alone takes {_RESPONSE.size}")
    magic, version, _, rows, dim, generation, sequence = _RESPONSE.unpack_from(data)
    if magic != b"MLKR" or version != BODY_VERSION:
        raise CorruptError(f"the answer of {where} begins with {magic!r} version {version}, not b'MLKR' {BODY_VERSION}")
    if len(data) != (wanted := _RESPONSE.size + 4 * rows * dim):
        raise CorruptError(f"the answer of {where} has {len(data)} bytes, {rows} rows of dim {dim} take {wanted}")
    return LookupAnswer(generation, sequence, np.frombuffer(data, "<f4", rows * dim, _RESPONSE.size).reshape(rows, dim))
