"""How a row travels and lies once it is published: as float32, in 16 bits a value, or in 8 with a scale a row.

A payload is chosen with ``publish.payload`` in the job file and is one for the whole model. Rows are packed once, when
the store takes a delta, and stay so in delta logs, stores and replicas' memory; who asks gets float32.

============  ===============  ===============================================================================
payload       bytes a row      a value x of a row is read as
============  ===============  ===============================================================================
float32       4 dim            x
float16       2 dim            the nearest float16, ties to even; finite values end at +-65504
bfloat16      2 dim            the nearest bfloat16, ties to even; finite values end at +-3.39e38
int8_rowwise  dim + 8          ``q * scale + bias``, q = 0..255: FBGEMM's fused 8-bit row-wise format, its bits
============  ===============  ===============================================================================

In ``int8_rowwise`` bias is the row's least value and scale its range / 255, so x is off by half a step, range / 510, at
most, besides 1e-8 (FBGEMM's guard against a range of zero) and the rounding of float32 (four units in the last place of
the row's greatest size at most).

A table's rows hold numbers only. Should one not: in 16 bits a NaN stays a NaN and an infinity an infinity; in
``int8_rowwise`` a row with either, or with a range beyond float32, reads as NaN throughout, so that it is noticed.
(FBGEMM's encoder does the same but for a NaN, which it may hide.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.errors import VersionError

Packed = npt.NDArray[np.uint8]  # (n, RowFormat.width)
Values = npt.NDArray[np.float32]  # (n, dim)

_CHUNK_VALUES = 2**16  # packed and unpacked at a time, so that what lies between stays in the processor's cache
_EPSILON = np.float32(1e-8)  # FBGEMM's kEpsilon
_LANES = 8  # floats that FBGEMM's AVX2 code compares at once
_TAIL = 8  # bytes of scale and bias


@dataclass(frozen=True, slots=True)
class RowFormat:
    """The bytes of one table's rows. Raises VersionError for a payload that this build does not know."""

    payload: str
    dim: int

    def __post_init__(self) -> None:
        check_payload(self.payload, "a table")

    @property
    def width(self) -> int:
        """Bytes a row."""
        return _CODECS[self.payload].width(self.dim)

    def pack(self, values: Values) -> Packed:
        """``values`` (n, dim) as bytes, (n, width); a function of each row alone."""
        packed: Packed = self._in_chunks(_CODECS[self.payload].pack, np.ascontiguousarray(values, np.float32))
        return packed.reshape(len(values), self.width)

    def unpack(self, packed: Packed) -> Values:
        """The float32 values (n, dim) that ``packed`` (n, width) is read as; maybe a view of it."""
        values: Values = self._in_chunks(_CODECS[self.payload].unpack, packed)
        return values.reshape(len(packed), self.dim)

    def served(self, values: Values) -> Values:
        """``values`` as they are read once they were published."""
        return self.unpack(self.pack(values))

    def _in_chunks(self, convert: Callable[[Any], Any], rows: npt.NDArray[Any]) -> Any:
        step = max(1, _CHUNK_VALUES // self.dim)
        if len(rows) <= step or self.payload == "float32":
            return convert(rows)
        return np.concatenate([convert(rows[start : start + step]) for start in range(0, len(rows), step)])


def check_payload(payload: str, where: str) -> None:
    """Raise VersionError unless this build knows ``payload``."""
    if payload not in _CODECS:
        raise VersionError(
            f"{where} has rows of payload {payload!r}, this build reads {', '.join(_CODECS)}: upgrade it"
        )


def _bytes(array: npt.NDArray[Any]) -> Packed:
    return np.ascontiguousarray(array).view(np.uint8)


def _words(packed: Packed, kind: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(packed).view(kind)


# --- 32 and 16 bits ---------------------------------------------------------------------------------------------------


def _pack_float32(values: Values) -> Packed:
    return _bytes(values.astype("<f4", copy=False))


def _unpack_float32(packed: Packed) -> Values:
    return _words(packed, "<f4").astype(np.float32, copy=False)


def _pack_float16(values: Values) -> Packed:
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype("<f2")
    if (odd := ~np.isfinite(half)).any():
        given = values[odd]
        bounded = np.where(np.isfinite(given), np.copysign(np.float32(65504), given), given)
        half[odd] = np.where(np.isnan(given), np.float32(np.nan), bounded)  # one NaN, whichever came
    return _bytes(half)


def _unpack_float16(packed: Packed) -> Values:
    return _words(packed, "<f2").astype(np.float32)


def _pack_bfloat16(values: Values) -> Packed:
    bits = values.view(np.uint32)
    size, sign = bits & np.uint32(0x7FFFFFFF), (bits >> np.uint32(16)) & np.uint32(0x8000)
    kept = (size + np.uint32(0x7FFF) + ((size >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    kept = np.where(size < np.uint32(0x7F800000), np.minimum(kept, np.uint32(0x7F7F)), size >> np.uint32(16))
    kept[size > np.uint32(0x7F800000)] = 0x7FC0
    return _bytes((sign | kept).astype("<u2"))


def _unpack_bfloat16(packed: Packed) -> Values:
    return (_words(packed, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


# --- 8 bits with a scale and a bias a row -----------------------------------------------------------------------------


def _pack_int8_rowwise(values: Values) -> Packed:
    columns = np.ascontiguousarray(values.T)  # minima of long rows of columns are ten times as fast as of short rows
    low, high = np.minimum.reduce(columns, axis=0), np.maximum.reduce(columns, axis=0)
    _settle_zeros(values, low)
    with np.errstate(over="ignore", invalid="ignore"):
        span = high - low + np.float32(0)  # + 0: never -0.0
        steps = (values - low[:, None]) * (np.float32(255) / (span + _EPSILON))[:, None]
    if not np.isfinite(span).all():
        steps[~np.isfinite(span)] = 0
        low[np.isnan(span)] = span[np.isnan(span)] = np.nan  # one NaN, whichever came
    tail = np.stack([span / np.float32(255), low], axis=1).astype("<f4", copy=False)
    return np.hstack([np.rint(steps, out=steps).astype(np.uint8), _bytes(tail)])


def _unpack_int8_rowwise(packed: Packed) -> Values:
    tail = _words(packed[:, -_TAIL:], "<f4").astype(np.float32, copy=False)
    values = packed[:, :-_TAIL].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values *= tail[:, :1]
        values += tail[:, 1:]
    return values


def _settle_zeros(values: Values, low: npt.NDArray[np.float32]) -> None:
    """Where the least value is a zero, which of 0.0 and -0.0 the bias is: else it would be chance where both occur.

    FBGEMM keeps the last zero of the first of its eight lanes that has one, then looks at what fills no lanes.
    """
    rows = np.flatnonzero(low == 0)
    if rows.size:
        whole = values.shape[1] // _LANES * _LANES
        lanes = np.arange(whole).reshape(-1, _LANES)[::-1].T.ravel()
        order = np.concatenate([lanes, np.arange(whole, values.shape[1])])
        first = (values[np.ix_(rows, order)] == 0).argmax(axis=1)
        low[rows] = values[rows, order[first]]


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one payload packs rows."""

    width: Callable[[int], int]  # dim -> bytes
    pack: Callable[[Values], Packed]
    unpack: Callable[[Packed], Values]


_CODECS = {
    "float32": _Codec(lambda dim: 4 * dim, _pack_float32, _unpack_float32),
    "float16": _Codec(lambda dim: 2 * dim, _pack_float16, _unpack_float16),
    "bfloat16": _Codec(lambda dim: 2 * dim, _pack_bfloat16, _unpack_bfloat16),
    "int8_rowwise": _Codec(lambda dim: dim + _TAIL, _pack_int8_rowwise, _unpack_int8_rowwise),
}
PAYLOADS = tuple(_CODECS)  # a payload's place is its number in a published delta: add at the end only
