"""Numbers as categories: the few rules by which data sets' numbers become ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.float64]


_LEAST = -(2.0**62)  # what is below shares a bucket


def log_squared(numbers: Numbers) -> npt.NDArray[np.int64]:
    """``floor(ln(x)^2)`` above 2, and the number's whole part up to there, as is usual for Criteo's counts."""
    logs = np.log(np.maximum(numbers, 1.0))
    small = np.trunc(np.clip(numbers, _LEAST, 2.0))
    return np.where(numbers > 2, np.floor(logs * logs), small).astype(np.int64)


def quarter_octaves(numbers: Numbers) -> npt.NDArray[np.int64]:
    """``floor(4 log2 x)``, and -1 below 1: prices of one bucket are within a fifth of each other."""
    logs = np.log2(np.maximum(numbers, 1.0))
    return np.where(numbers >= 1, np.floor(4 * logs), -1).astype(np.int64)


RULES: Mapping[str, Callable[[Numbers], npt.NDArray[np.int64]]] = {
    "log_squared": log_squared,
    "quarter_octaves": quarter_octaves,
}


def bucketed(column: Any, rule: Callable[[Numbers], npt.NDArray[np.int64]]) -> pa.Array:
    """A column of numbers as int64 buckets; a null stays one."""
    missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    missing = missing | ~np.isfinite(numbers)
    return pa.array(rule(np.where(missing, 0.0, numbers)), mask=missing)
