"""The bytes of a published delta: one encoding for the delta logs of LMDB and of Redis.

::

    "MDLT"  magic
    u16     format version (1)
    u16     zero
    u64     length of the body
    u64     xxh3-64 of the body, seeded with the body's length
    body    see ``docs/formats.md``

All integers are little-endian; every array starts at a multiple of 8 bytes from the start of the body. ``decode``
checks magic, version, length and checksum before it looks inside, every count against the bytes that are left before
it takes them, and the rules of a delta (ascending ids, none both written and removed) before it hands one out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from monolith.errors import CorruptError, InputError, VersionError
from monolith.tables.delta import Delta, ModelDelta

MAGIC = b"MDLT"
FORMAT_VERSION = 1

_HEADER = struct.Struct("<4sHHQQ")
_NUMBERS = struct.Struct("<QqQQQqIIQ")  # generation .. length of dense, see _Writer
_TABLE = struct.Struct("<IIQQ")  # length of name, dim, rows, removed
_ALIGN = 8


@dataclass(frozen=True, slots=True)
class PublishedDelta:
    """A delta as a store keeps it: who wrote it, when, and what."""

    generation: int
    lineage: str
    published_ms: int  # wall time at which the trainer handed it to the store
    delta: ModelDelta


def encode(published: PublishedDelta) -> bytes:
    """The delta's bytes. Raises InputError if it breaks a rule that ``decode`` would hold it to."""
    if problem := _broken_rule(published.delta):
        raise InputError(f"cannot publish delta {published.delta.sequence}: {problem}; nothing was written")
    body = _encode_body(published)
    return _HEADER.pack(MAGIC, FORMAT_VERSION, 0, len(body), _checksum(body)) + body


def decode(data: bytes, where: str) -> PublishedDelta:
    """The delta in ``data``; its arrays are read-only views of it.

    ``where`` (a file and key, a stream and entry) is named in errors. Raises VersionError for another format version
    and CorruptError for anything else that is not a whole, undamaged delta.
    """
    body = _checked_body(data, where)
    try:
        published = _decode_body(body)
    except (_TooShortError, UnicodeDecodeError) as error:
        raise CorruptError(f"delta at {where}: {error}; the writer was broken, publish a new image") from error
    if problem := _broken_rule(published.delta):
        raise CorruptError(f"delta {published.delta.sequence} at {where}: {problem}; publish a new image")
    return published


def _checksum(body: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(body, seed=len(body))


def _encode_body(published: PublishedDelta) -> bytes:
    delta = published.delta
    lineage = published.lineage.encode()
    parts = [
        _NUMBERS.pack(
            published.generation,
            published.published_ms,
            delta.base_sequence,
            delta.sequence,
            delta.step,
            delta.watermark_ms,
            len(lineage),
            len(delta.tables),
            len(delta.dense),
        ),
        struct.pack("<Q", len(delta.ingested_ms)),
        lineage,
        delta.dense,
        np.ascontiguousarray(delta.ingested_ms, "<i8").tobytes(),
    ]
    for name in sorted(delta.tables):
        parts += _encode_table(name.encode(), delta.tables[name])
    return b"".join(part + bytes(-len(part) % _ALIGN) for part in parts)


def _encode_table(name: bytes, table: Delta) -> list[bytes]:
    rows, dim = table.values.shape
    return [
        _TABLE.pack(len(name), dim, rows, len(table.removed)),
        name,
        np.ascontiguousarray(table.ids, "<i8").tobytes(),
        np.ascontiguousarray(table.removed, "<i8").tobytes(),
        np.ascontiguousarray(table.values, "<f4").tobytes(),
    ]


def _checked_body(data: bytes, where: str) -> memoryview:
    if len(data) < _HEADER.size:
        raise CorruptError(f"delta at {where}: {len(data)} bytes, a header alone has {_HEADER.size}")
    magic, version, zero, length, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptError(f"delta at {where}: starts with {magic!r}, not {MAGIC!r}: this is no delta")
    if version != FORMAT_VERSION:
        raise VersionError(f"delta at {where}: format version {version}, this build reads {FORMAT_VERSION}: upgrade it")
    body = memoryview(data)[_HEADER.size :]
    if zero or length != len(body):
        raise CorruptError(f"delta at {where}: the header tells of {length} bytes, {len(body)} follow")
    if checksum != (seen := _checksum(body)):
        raise CorruptError(f"delta at {where}: checksum {seen:016x}, written as {checksum:016x}: bytes have changed")
    return body


class _TooShortError(Exception):
    """A count in the body asks for more than the body holds."""


class _Reader:
    """Takes one aligned piece after the other from a body, never past its end."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def take(self, length: int, what: str) -> memoryview:
        left = len(self._body) - self._at
        if length > left:
            raise _TooShortError(f"{what} takes {length} bytes, {left} are left")
        piece = self._body[self._at : self._at + length]
        self._at += length + -length % _ALIGN
        return piece

    def numbers(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size, what))

    def text(self, length: int, what: str) -> str:
        return bytes(self.take(length, what)).decode()

    def int64(self, count: int, what: str) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.take(8 * count, what), "<i8")

    def float32(self, rows: int, dim: int, what: str) -> npt.NDArray[np.float32]:
        return np.frombuffer(self.take(4 * rows * dim, what), "<f4").reshape(rows, dim)

    def finish(self) -> None:
        if self._at != len(self._body):
            raise _TooShortError(f"the body has {len(self._body)} bytes, its parts end at {self._at}")


def _decode_body(body: memoryview) -> PublishedDelta:
    reader = _Reader(body)
    numbers = reader.numbers(_NUMBERS, "the numbers")
    generation, published_ms, base, sequence, step, watermark_ms, lineage_length, tables, dense_length = numbers
    (times,) = reader.numbers(struct.Struct("<Q"), "the count of ingestion times")
    lineage = reader.text(lineage_length, "the lineage")
    dense = bytes(reader.take(dense_length, "the dense weights"))
    ingested_ms = reader.int64(times, "the ingestion times")
    deltas = dict(_decode_table(reader, base, sequence) for _ in range(tables))
    reader.finish()
    delta = ModelDelta(base, sequence, step, watermark_ms, deltas, dense, ingested_ms)
    return PublishedDelta(generation, lineage, published_ms, delta)


def _decode_table(reader: _Reader, base: int, sequence: int) -> tuple[str, Delta]:
    name_length, dim, rows, gone = reader.numbers(_TABLE, "a table's numbers")
    name = reader.text(name_length, "a table's name")
    ids = reader.int64(rows, f"the ids of {name!r}")
    removed = reader.int64(gone, f"the removed ids of {name!r}")
    values = reader.float32(rows, dim, f"the values of {name!r}")
    return name, Delta(base, sequence, ids, values, removed)


def _broken_rule(delta: ModelDelta) -> str | None:
    """What is wrong with a delta, or None."""
    if not 0 <= delta.base_sequence < delta.sequence:
        return f"it goes from sequence {delta.base_sequence} to {delta.sequence}, which is not forward"
    for name, table in delta.tables.items():
        if problem := _broken_table_rule(delta, table):
            return f"table {name!r} {problem}"
    return None


def _broken_table_rule(delta: ModelDelta, table: Delta) -> str | None:
    span = (table.base_sequence, table.sequence)
    if span != (delta.base_sequence, delta.sequence):
        return f"has sequences {span}, the model's delta {(delta.base_sequence, delta.sequence)}"
    if table.values.ndim != 2 or len(table.ids) != len(table.values) or table.values.shape[1] == 0:
        return f"has {len(table.ids)} ids for values of shape {table.values.shape}"
    for what, ids in (("ids", table.ids), ("removed ids", table.removed)):
        if not (ids[1:] > ids[:-1]).all():
            return f"has {what} that do not ascend"
    if np.intersect1d(table.ids, table.removed, assume_unique=True).size:
        return "both writes and removes an id"
    return None
