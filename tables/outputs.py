"""The arrays that results are in: large ones in memory that earlier ones were in, which no array shows any more.

The system hands out memory page by page, clears it at the first touch, and takes large blocks back when they are freed:
for the vectors of a wide table, that is a sixth of a training step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith.tables import _core

_LINE = 16  # float32 of a memory line
_WORTH_ALIGNING = 1 << 14  # float32; smaller results need no more than what NumPy gives
_WORTH_KEEPING = 1 << 22  # malloc itself keeps smaller ones
_LARGEST_KEPT = 1 << 26


def empty_matrix(n: int, columns: int) -> npt.NDArray[np.float32]:
    """(n, columns) float32 of any contents, beginning at a memory line, so that 16 columns are one."""
    size = n * columns
    if size < _WORTH_ALIGNING:
        return np.empty((n, columns), np.float32)
    if _WORTH_KEEPING <= size <= _LARGEST_KEPT:
        return _core.result(size).reshape(n, columns)
    flat = np.empty(size + _LINE, np.float32)
    start = -(flat.ctypes.data // flat.itemsize) % _LINE
    return flat[start : start + size].reshape(n, columns)
