"""How values lie in a table's file: as float32, or in the 16 bits that the table keeps of them.

Both ways are exact: a table of 16-bit storage hands out float32 values that fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.config.table import Storage

STORED: dict[Storage, str] = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2"}  # dtypes in the file


def narrowed(values: npt.NDArray[np.float32], storage: Storage) -> npt.NDArray[Any]:
    """What the file has for ``values`` that fit ``storage``."""
    if storage == "bfloat16":  # the upper half of a float32
        return (values.view(np.uint32) >> np.uint32(16)).astype("<u2")
    return values.astype(STORED[storage], copy=False)


def widened(stored: npt.NDArray[Any], storage: Storage) -> npt.NDArray[np.float32]:
    """The values of what the file has."""
    if storage == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype("<f4", copy=False)
