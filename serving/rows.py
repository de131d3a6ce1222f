"""The bytes of one stored row, the same in LMDB and in Redis.

key    the id as 8 bytes, big-endian two's complement
value  the row in the store's payload (``payload``), then the CRC-32 (zlib's) of key and row as 4 bytes, little-endian

So a row can be read by any language in three lines, and a flipped bit in it is found when it is read.
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError
from monolith.serving.payload import Packed, RowFormat

KEY_BYTES = 8
CHECK_BYTES = 4
_AT_ONCE = 65_536  # rows

Ids = npt.NDArray[np.int64]


def pack_keys(ids: Ids) -> list[bytes]:
    """One key an id."""
    return _cut(ids.astype(">i8").tobytes(), KEY_BYTES)


def pack_rows(ids: Ids, packed: Packed) -> list[bytes]:
    """One stored value a row of ``packed`` (n, width)."""
    checked = np.hstack([packed, checks(ids, packed).view(np.uint8).reshape(-1, CHECK_BYTES)])
    return _cut(checked.tobytes(), checked.shape[1])


def in_key_order(ids: Ids, at_once: int) -> Iterator[slice]:
    """Pieces of ascending ids in the order of their keys: ascending, those below zero last; ``at_once`` at most."""
    below = int(np.searchsorted(ids, 0))
    for begin, end in ((below, len(ids)), (0, below)):
        for start in range(begin, end, at_once):
            yield slice(start, min(start + at_once, end))


def unpack_keys(keys: Sequence[bytes], where: str) -> Ids:
    """The ids behind ``keys``. Raises CorruptError for a key of another size."""
    if any(len(key) != KEY_BYTES for key in keys):
        raise CorruptError(f"{where}: a row's key is not {KEY_BYTES} bytes long; publish a new image")
    return np.frombuffer(b"".join(keys), ">i8").astype(np.int64)


def unpack_rows(ids: Ids, stored: Sequence[bytes], form: RowFormat, where: str) -> Packed:
    """The packed rows (n, width) of ``ids``. Raises CorruptError, naming the id, for a wrong size or a failed check."""
    size = form.width + CHECK_BYTES
    lengths = np.fromiter(map(len, stored), np.int64, len(stored))
    if (wrong := np.flatnonzero(lengths != size)).size:
        at = wrong[0]
        raise CorruptError(
            f"{where}: row {ids[at]} has {lengths[at]} bytes, dim {form.dim} in {form.payload} takes {size}: {_REMEDY}"
        )
    checked = np.frombuffer(b"".join(stored), np.uint8).reshape(-1, size)
    body, written = checked[:, :-CHECK_BYTES], np.ascontiguousarray(checked[:, -CHECK_BYTES:]).view("<u4").ravel()
    if (wrong := np.flatnonzero(checks(ids, body) != written)).size:
        raise CorruptError(f"{where}: row {ids[wrong[0]]} fails its checksum, its bytes have changed: {_REMEDY}")
    return np.ascontiguousarray(body)


_REMEDY = "empty the store and start the trainer, which then sends a new image"


def checks(ids: Ids, body: Packed) -> npt.NDArray[np.uint32]:
    """CRC-32 of each row's key and packed bytes, (n,). Some rows at a time: each is a Python object meanwhile."""
    found = np.zeros(len(ids), "<u4")
    for start in range(0, len(ids), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        keys = ids[part].astype(">i8").view(np.uint8).reshape(-1, KEY_BYTES)
        rows = _cut(np.hstack([keys, body[part]]).tobytes(), KEY_BYTES + body.shape[1])
        found[part] = np.fromiter(map(crc32, rows), "<u4", len(rows))
    return found


def _cut(data: bytes, size: int) -> list[bytes]:
    """``data`` in pieces of ``size`` bytes; struct.iter_unpack is the fastest way that CPython has."""
    return [piece for (piece,) in struct.iter_unpack(f"{size}s", data)]
