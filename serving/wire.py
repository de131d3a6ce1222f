"""The bytes of a published delta: one encoding for the delta logs of LMDB and of Redis.

::

    "MDLT"  magic
    u16     format version: 1 for float32 rows, 2 for those of another payload
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
from monolith.serving.packed import PackedDelta, PackedTable
from monolith.serving.payload import PAYLOADS, Packed, RowFormat

MAGIC = b"MDLT"
FLOAT32_VERSION = 1  # has no word of the payload: what older builds read as well
PAYLOAD_VERSION = 2

_HEADER = struct.Struct("<4sHHQQ")
_NUMBERS = struct.Struct("<QqQQQqIIQ")  # generation .. length of dense, see _Writer
_COUNT = struct.Struct("<Q")
_TABLE = struct.Struct("<IIQQ")  # length of name, dim, rows, removed
_ALIGN = 8


@dataclass(frozen=True, slots=True)
class PublishedDelta:
    """A delta as a store keeps it: who wrote it, when, and what."""

    generation: int
    lineage: str
    published_ms: int  # wall time at which the trainer handed it to the store
    delta: PackedDelta


def encode(published: PublishedDelta) -> bytes:
    """The delta's bytes. Raises InputError if it breaks a rule that ``decode`` would hold it to."""
    _check(published.delta)
    version = FLOAT32_VERSION if published.delta.payload == "float32" else PAYLOAD_VERSION
    body = _encode_body(published, version)
    return _HEADER.pack(MAGIC, version, 0, len(body), _checksum(body)) + body


def encode_for_log(published: PublishedDelta) -> bytes:
    """What a store's log of deltas takes in: of an image, which begins an empty log, nothing. Raises as `encode`."""
    if published.delta.base_sequence:
        return encode(published)
    _check(published.delta)
    return b""


def _check(delta: PackedDelta) -> None:
    if problem := _broken_rule(delta):
        raise InputError(f"cannot publish delta {delta.sequence}: {problem}; nothing was written")


def decode(data: bytes, where: str) -> PublishedDelta:
    """The delta in ``data``; its arrays are read-only views of it.

    ``where`` (a file and key, a stream and entry) is named in errors. Raises VersionError for another format version
    and CorruptError for anything else that is not a whole, undamaged delta.
    """
    version, body = _checked_body(data, where)
    try:
        published = _decode_body(body, version, where)
    except (_TooShortError, UnicodeDecodeError) as error:
        raise CorruptError(f"delta at {where}: {error}; the writer was broken, publish a new image") from error
    if problem := _broken_rule(published.delta):
        raise CorruptError(f"delta {published.delta.sequence} at {where}: {problem}; publish a new image")
    return published


def _checksum(body: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(body, seed=len(body))


def _encode_body(published: PublishedDelta, version: int) -> bytes:
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
        _COUNT.pack(len(delta.ingested_ms)),
        *([_COUNT.pack(PAYLOADS.index(delta.payload))] if version == PAYLOAD_VERSION else []),
        lineage,
        delta.dense,
        np.ascontiguousarray(delta.ingested_ms, "<i8").tobytes(),
    ]
    for name in sorted(delta.tables):
        parts += _encode_table(name.encode(), delta.tables[name])
    return b"".join(part + bytes(-len(part) % _ALIGN) for part in parts)


def _encode_table(name: bytes, table: PackedTable) -> list[bytes]:
    return [
        _TABLE.pack(len(name), table.format.dim, len(table.packed), len(table.removed)),
        name,
        np.ascontiguousarray(table.ids, "<i8").tobytes(),
        np.ascontiguousarray(table.removed, "<i8").tobytes(),
        table.packed.tobytes(),
    ]


def _checked_body(data: bytes, where: str) -> tuple[int, memoryview]:
    """Format version and body."""
    if len(data) < _HEADER.size:
        raise CorruptError(f"delta at {where}: {len(data)} bytes, a header alone has {_HEADER.size}")
    magic, version, zero, length, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptError(f"delta at {where}: starts with {magic!r}, not {MAGIC!r}: this is no delta")
    if version not in (FLOAT32_VERSION, PAYLOAD_VERSION):
        raise VersionError(
            f"delta at {where}: format version {version}, this build reads {FLOAT32_VERSION} and {PAYLOAD_VERSION}: "
            "upgrade it"
        )
    body = memoryview(data)[_HEADER.size :]
    if zero or length != len(body):
        raise CorruptError(f"delta at {where}: the header tells of {length} bytes, {len(body)} follow")
    if checksum != (seen := _checksum(body)):
        raise CorruptError(f"delta at {where}: checksum {seen:016x}, written as {checksum:016x}: bytes have changed")
    return version, body


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

    def packed(self, rows: int, width: int, what: str) -> Packed:
        return np.frombuffer(self.take(rows * width, what), np.uint8).reshape(rows, width)

    def finish(self) -> None:
        if self._at != len(self._body):
            raise _TooShortError(f"the body has {len(self._body)} bytes, its parts end at {self._at}")


def _decode_body(body: memoryview, version: int, where: str) -> PublishedDelta:
    reader = _Reader(body)
    numbers = reader.numbers(_NUMBERS, "the numbers")
    generation, published_ms, base, sequence, step, watermark_ms, lineage_length, tables, dense_length = numbers
    (times,) = reader.numbers(_COUNT, "the count of ingestion times")
    payload = _decode_payload(reader, where) if version == PAYLOAD_VERSION else "float32"
    lineage = reader.text(lineage_length, "the lineage")
    dense = bytes(reader.take(dense_length, "the dense weights"))
    ingested_ms = reader.int64(times, "the ingestion times")
    deltas = dict(_decode_table(reader, payload, base, sequence) for _ in range(tables))
    reader.finish()
    delta = PackedDelta(base, sequence, step, watermark_ms, deltas, dense, ingested_ms, payload)
    return PublishedDelta(generation, lineage, published_ms, delta)


def _decode_payload(reader: _Reader, where: str) -> str:
    (number,) = reader.numbers(_COUNT, "the payload's number")
    if number >= len(PAYLOADS):
        known = ", ".join(f"{known} ({name})" for known, name in enumerate(PAYLOADS))
        raise VersionError(f"delta at {where}: its rows are of payload {number}, this build reads {known}: upgrade it")
    payload: str = PAYLOADS[number]
    return payload


def _decode_table(reader: _Reader, payload: str, base: int, sequence: int) -> tuple[str, PackedTable]:
    name_length, dim, rows, gone = reader.numbers(_TABLE, "a table's numbers")
    name = reader.text(name_length, "a table's name")
    ids = reader.int64(rows, f"the ids of {name!r}")
    removed = reader.int64(gone, f"the removed ids of {name!r}")
    form = RowFormat(payload, dim)
    packed = reader.packed(rows, form.width, f"the values of {name!r}")
    return name, PackedTable(base, sequence, ids, packed, removed, form)


def _broken_rule(delta: PackedDelta) -> str | None:
    """What is wrong with a delta, or None."""
    if not 0 <= delta.base_sequence < delta.sequence:
        return f"it goes from sequence {delta.base_sequence} to {delta.sequence}, which is not forward"
    for name, table in delta.tables.items():
        if problem := _broken_table_rule(delta, table):
            return f"table {name!r} {problem}"
    return None


def _broken_table_rule(delta: PackedDelta, table: PackedTable) -> str | None:
    span = (table.base_sequence, table.sequence)
    if span != (delta.base_sequence, delta.sequence):
        return f"has sequences {span}, the model's delta {(delta.base_sequence, delta.sequence)}"
    if table.packed.shape != (len(table.ids), table.format.width) or table.format.dim == 0:
        return f"has {len(table.ids)} ids for bytes of shape {table.packed.shape} of dim {table.format.dim}"
    if table.format.payload != delta.payload:
        return f"is of payload {table.format.payload}, the model's delta of {delta.payload}"
    for what, ids in (("ids", table.ids), ("removed ids", table.removed)):
        if not (ids[1:] > ids[:-1]).all():
            return f"has {what} that do not ascend"
    if np.intersect1d(table.ids, table.removed, assume_unique=True).size:
        return "both writes and removes an id"
    return None
