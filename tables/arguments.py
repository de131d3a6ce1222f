"""Checks of the arrays and times that come in, before anything is changed. Every failure is an InputError."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.events import WATERMARK_END, WATERMARK_START

Ids = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
EventTimes = int | npt.NDArray[np.int64] | None

_MAX_IDS = 2**32 - 2  # positions within one call are 32-bit
_NO_TIMES = np.zeros(0, np.int64)


def checked_ids(ids: Ids, what: str = "ids") -> Ids:
    """``ids`` as a contiguous (n,) int64 array."""
    ids = _array(ids, np.dtype(np.int64), 1, what)
    if ids.size > _MAX_IDS:
        raise InputError(f"{what} holds {ids.size} ids, one call takes at most {_MAX_IDS}: split it")
    return ids


def checked_matrix(matrix: Matrix, n: int, dim: int, what: str) -> Matrix:
    """``matrix`` as a contiguous (n, dim) float32 array."""
    matrix = _array(matrix, np.dtype(np.float32), 2, what)
    if matrix.shape != (n, dim):
        raise InputError(f"{what} has shape {matrix.shape}, this call needs (ids, dim) = ({n}, {dim})")
    return matrix


def checked_times(times: EventTimes, n: int) -> Ids:
    """Event times as an array: empty for None, one element for one time, else one for each of the n ids."""
    if times is None:
        return _NO_TIMES
    if not isinstance(times, np.ndarray) or times.ndim == 0:
        return np.array([checked_time(times, "event_time_ms")], np.int64)
    each: Ids = _array(times, np.dtype(np.int64), 1, "event_time_ms")
    if len(each) != n:
        raise InputError(f"event_time_ms holds {len(each)} times for {n} ids: give one, or one for each id")
    if n:
        checked_time(each.min(), "event_time_ms")
        checked_time(each.max(), "event_time_ms")
    return each


def checked_time(value: Any, what: str) -> int:
    """A time in ms since the epoch; the two ends of the range mean "before" and "after all events" and are no times."""
    try:
        time_ms = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r} ({type(value).__name__}), it must be an integer in ms") from None
    if not WATERMARK_START < time_ms < WATERMARK_END:
        raise InputError(f"{what} is {time_ms}, which is no time; it lies between -2**63 and 2**63 - 1, both excluded")
    return time_ms


def checked_count(value: Any, lowest: int, highest: int, what: str) -> int:
    """A whole number within limits."""
    try:
        count = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r} ({type(value).__name__}), it must be a whole number") from None
    if not lowest <= count <= highest:
        raise InputError(f"{what} is {count}, it must be from {lowest} to {highest}")
    return count


def _array(array: Any, dtype: np.dtype[Any], ndim: int, what: str) -> Any:
    """The array itself, or a contiguous copy; other dtypes are refused, since a silent cast would hide a mistake."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"{what} is a {type(array).__name__}, it must be a numpy array of {dtype}")
    if array.dtype != dtype:
        raise InputError(f"{what} has dtype {array.dtype}, it must be {dtype}: convert it with .astype(numpy.{dtype})")
    if array.ndim != ndim:
        raise InputError(f"{what} has {array.ndim} dimensions, shape {array.shape}, it must have {ndim}")
    return array if array.flags.c_contiguous and array.flags.aligned else np.array(array, order="C")
