"""The bytes of a log: batches of records and extents of partitions, each with a checksum over everything behind it.

    batch    length:u32 crc32:u32 version:u8 partition:u32 base:u64 count:u32 ingestion_ms:i64 body    (big-endian)
    extent   crc32:u32 begin:u64 end:u64 size_bytes:u64

``body`` is a MessagePack list of [key, value, event_time_ms]. A batch repeats the key that it stands under, so a value
in the wrong place is found out as well, and says its own length first: where LMDB's own page is damaged, the value it
hands out may be longer than the file, and must not be touched before that is known. Damage is a ValueError here, which
says why; the log adds the place.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from monolith.errors import VersionError
from monolith.streaming._joiner import split_records
from monolith.streaming.record_block import RecordBlock, Texts
from monolith.streaming.source import Outgoing
from monolith.tables.batch import Ints

LOG_VERSION = 1

_CRC = struct.Struct(">I")
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">IBIQIq")
_EXTENT = struct.Struct(">IQQQ")

_encoder = msgspec.msgpack.Encoder()
Buffer = bytes | memoryview

_body_decoder = msgspec.msgpack.Decoder(list[tuple[bytes | None, bytes | None, int]])


@dataclass(frozen=True, slots=True)
class Extent:
    """What a partition holds: offsets ``begin`` up to, without, ``end``, in ``size_bytes`` of batches."""

    begin: int
    end: int
    size_bytes: int

    def pack(self) -> bytes:
        """As bytes."""
        return _seal(_EXTENT.pack(0, self.begin, self.end, self.size_bytes))


@dataclass(frozen=True, slots=True)
class BatchHead:
    """What is known of a batch without decoding its records."""

    partition: int
    base: int
    count: int
    ingestion_ms: int


def unpack_extent(value: Buffer) -> Extent:
    """Raises ValueError for damage."""
    if len(value) != _EXTENT.size or not _sealed(bytes(value)):
        raise ValueError("its checksum does not match")
    return Extent(*_EXTENT.unpack(value)[1:])


def pack_batch(head: BatchHead, rows: Sequence[Outgoing]) -> bytes:
    """The batch ``head`` with its ``rows``, as bytes."""
    fixed = _HEAD.pack(0, LOG_VERSION, head.partition, head.base, head.count, head.ingestion_ms)
    sealed = _seal(fixed + _encoder.encode(rows))
    return _LENGTH.pack(len(sealed)) + sealed


def copy_batch(value: Buffer) -> bytes:
    """The batch out of LMDB's memory. Raises ValueError for one that is not as long as it says."""
    length = _LENGTH.unpack_from(value)[0] if len(value) >= _LENGTH.size + _HEAD.size else None
    if length != len(value) - _LENGTH.size:
        raise ValueError("its length is not what it says")
    return bytes(value)


def unpack_head(value: bytes) -> BatchHead:
    """Check a copied batch, decode its head. Raises ValueError for damage, VersionError for another version."""
    if not _sealed(value, _LENGTH.size):
        raise ValueError("its checksum does not match")
    _, version, *fields = _HEAD.unpack_from(value, _LENGTH.size)
    if version != LOG_VERSION:
        raise VersionError(f"it is of version {version}, this build reads {LOG_VERSION}")
    return BatchHead(*fields)


def unpack_batch(value: bytes) -> tuple[BatchHead, RecordBlock]:
    """A copied batch and its records. Raises ValueError for damage, VersionError for another version."""
    head = unpack_head(value)
    keys, values, times_ms = _columns(value)
    if len(times_ms) != head.count:
        raise ValueError(f"it has {len(times_ms)} records, its head says {head.count}")
    offsets = np.arange(head.base, head.base + head.count)
    return head, RecordBlock(head.partition, offsets, times_ms, np.full(head.count, head.ingestion_ms), keys, values)


def _columns(value: bytes) -> tuple[Texts, Texts, Ints]:
    """Keys, values and event times of a batch's records."""
    split = split_records(value, _LENGTH.size + _HEAD.size)
    if split is not None:
        keys, key_ends, no_key, values, value_ends, no_value, times_ms = split
        return (
            Texts(keys, key_ends, no_key.view(np.bool_)),
            Texts(values, value_ends, no_value.view(np.bool_)),
            times_ms,
        )
    try:
        rows = _body_decoder.decode(value[_LENGTH.size + _HEAD.size :])
        times = np.array([row[2] for row in rows], np.int64)
    except (msgspec.DecodeError, OverflowError) as error:
        raise ValueError(f"its records cannot be decoded: {error}") from None
    return Texts.of([row[0] for row in rows]), Texts.of([row[1] for row in rows]), times


def _seal(unsealed: bytes) -> bytes:
    """``unsealed`` with the crc32 of all that follows in its first four bytes."""
    return _CRC.pack(zlib.crc32(unsealed[_CRC.size :])) + unsealed[_CRC.size :]


def _sealed(value: bytes, begin: int = 0) -> bool:
    """Whether the crc32 at ``begin`` is that of all that follows it."""
    return bool(_CRC.unpack_from(value, begin)[0] == zlib.crc32(memoryview(value)[begin + _CRC.size :]))
