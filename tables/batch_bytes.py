"""A `Batch` as bytes: for other processes, files and tests. ``docs/formats.md`` has the same in words.

    8 bytes       magic "MONOBTCH"
    uint32        version, 1
    uint32        n, the header's length
    n bytes       header, MessagePack: what columns follow, see `_Header`
    columns       each from the next multiple of 8 bytes on, little-endian, in the order of `_columns`
    uint32        CRC-32 of all before

Reading copies nothing: the columns show the bytes, read only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError, InputError, VersionError
from monolith.tables.batch import Bag, Batch

MAGIC = b"MONOBTCH"
VERSION = 1

_PREFIX = struct.Struct("<8sII")
_CRC = struct.Struct("<I")
_ALIGNED = 8


class _BagHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    ids: int
    weighted: bool


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    rows: int
    tasks: int
    label_weights: bool
    bags: list[_BagHeader]
    dense: list[tuple[str, int]]  # name, width


class _Column(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]


def to_bytes(batch: Batch) -> bytes:
    """The batch in version 1; equal batches give equal bytes."""
    header = _Header(
        rows=len(batch),
        tasks=batch.labels.shape[1],
        label_weights=batch.label_weights is not None,
        bags=[_BagHeader(name, len(bag.ids), bag.weights is not None) for name, bag in batch.bags.items()],
        dense=[(name, column.shape[1]) for name, column in batch.dense.items()],
    )
    encoded = msgspec.msgpack.encode(header)
    parts, at = [_PREFIX.pack(MAGIC, VERSION, len(encoded)), encoded], _PREFIX.size + len(encoded)
    arrays = _arrays(batch)
    for column in _columns(header):
        data = np.ascontiguousarray(arrays[column.name], column.dtype).tobytes()
        parts += [bytes(-at % _ALIGNED), data]
        at += -at % _ALIGNED + len(data)
    whole = b"".join(parts)
    return whole + _CRC.pack(zlib.crc32(whole))


def from_bytes(data: bytes) -> Batch:
    """The batch that `to_bytes` wrote. Raises VersionError, and CorruptError for what is damaged or no batch."""
    header, at = _header(data)
    if len(data) < _CRC.size or zlib.crc32(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise CorruptError(f"a batch of {len(data)} bytes is damaged: its checksum does not match")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for column in _columns(header):
        at += -at % _ALIGNED
        count = int(np.prod(column.shape))
        size = count * np.dtype(column.dtype).itemsize
        if at + size > len(data) - _CRC.size:
            raise CorruptError(f"a batch ends inside its column {column.name!r}")
        arrays[column.name] = np.frombuffer(data, column.dtype, count, at).reshape(column.shape)
        at += size
    try:
        return _batch(header, arrays)
    except InputError as error:
        raise CorruptError(f"a batch does not fit together: {error}") from None


def _header(data: bytes) -> tuple[_Header, int]:
    if len(data) < _PREFIX.size or data[:8] != MAGIC:
        raise CorruptError(f"{len(data)} bytes that begin with {data[:8]!r} are no batch")
    _, version, length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise VersionError(f"a batch has format version {version}, this build reads {VERSION}")
    end = _PREFIX.size + length
    try:
        header = msgspec.msgpack.decode(data[_PREFIX.size : end], type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptError(f"the header of a batch cannot be read: {error}") from None
    sizes = [header.rows, header.tasks, *(bag.ids for bag in header.bags), *(width for _, width in header.dense)]
    if min(sizes) < 0 or max(sizes) > len(data):
        raise CorruptError(f"the header of a batch of {len(data)} bytes has the sizes {sizes}")
    return header, end


def _columns(header: _Header) -> Iterator[_Column]:
    n = header.rows
    for name in ("event_time_ms", "ingestion_time_ms", "groups"):
        yield _Column(name, "<i8", (n,))
    yield _Column("labels", "<f4", (n, header.tasks))
    if header.label_weights:
        yield _Column("label_weights", "<f4", (n, header.tasks))
    yield _Column("rates", "<f4", (n,))
    yield _Column("late", "|b1", (n,))
    for bag in header.bags:
        yield _Column(f"ids of {bag.name}", "<i8", (bag.ids,))
        yield _Column(f"lengths of {bag.name}", "<i4", (n,))
        if bag.weighted:
            yield _Column(f"weights of {bag.name}", "<f4", (bag.ids,))
    for name, width in header.dense:
        yield _Column(f"dense {name}", "<f4", (n, width))


def _arrays(batch: Batch) -> dict[str, Any]:
    arrays: dict[str, Any] = {name: getattr(batch, name) for name in Batch.__slots__ if name not in ("bags", "dense")}
    for name, bag in batch.bags.items():
        arrays |= {f"ids of {name}": bag.ids, f"lengths of {name}": bag.lengths, f"weights of {name}": bag.weights}
    return arrays | {f"dense {name}": column for name, column in batch.dense.items()}


def _batch(header: _Header, arrays: dict[str, Any]) -> Batch:
    def bag(name: str) -> Bag:
        return Bag(arrays[f"ids of {name}"], arrays[f"lengths of {name}"], arrays.get(f"weights of {name}"))

    return Batch(
        bags={each.name: bag(each.name) for each in header.bags},
        dense={name: arrays[f"dense {name}"] for name, _ in header.dense},
        label_weights=arrays.get("label_weights"),
        **{name: arrays[name] for name in ("labels", "rates", "event_time_ms", "ingestion_time_ms", "groups", "late")},
    )
