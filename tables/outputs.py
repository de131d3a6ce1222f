"""Memory for results. What a large one was in serves the next, once no array or tensor shows it any more.

The system hands out memory page by page, zeroed at the first touch, and takes large blocks back when they are freed:
for the vectors of a wide table, that is a sixth of a training step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]

_LINE = 16  # float32 of a memory line
_WORTH_ALIGNING = 1 << 14  # float32; smaller results need no more than what NumPy gives
_WORTH_KEEPING = range(1 << 22, (1 << 26) + 1)  # the same; malloc itself keeps smaller ones, larger ones are too large
_spare: deque[_Floats] = deque(maxlen=2)  # whichever thread takes or gives: each operation is atomic


def empty_matrix(n: int, columns: int) -> _Floats:
    """(n, columns) float32 of any contents, beginning at a memory line, so that 16 columns are one."""
    size = n * columns
    if size < _WORTH_ALIGNING:
        return np.empty((n, columns), np.float32)
    flat = np.asarray(_Loan(_spare_of(size))) if size in _WORTH_KEEPING else _aligned(size)
    return flat[:size].reshape(n, columns)


class _Loan:
    """What a result's array is a view of: it goes with the last such view, and its memory is then to spare."""

    def __init__(self, memory: _Floats) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory = memory

    def __del__(self, give_back: Callable[[_Floats], None] = _spare.append) -> None:
        give_back(self._memory)


def _spare_of(size: int) -> _Floats:
    """Memory for ``size`` values, and at most twice that: spare or new."""
    for _ in range(len(_spare)):
        try:
            memory = _spare.popleft()
        except IndexError:  # another thread was faster
            break
        if size <= memory.size <= 2 * size:
            return memory
        _spare.append(memory)
    return _aligned(size)


def _aligned(size: int) -> _Floats:
    flat = np.empty(size + _LINE, np.float32)
    start = -(flat.ctypes.data // flat.itemsize) % _LINE
    return flat[start : start + size]
