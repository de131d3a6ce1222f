"""Rounding to 16 bits by chance, in NumPy: what the native core must give, bit for bit.

``chance`` has 32 random bits for each value. A value that fits is kept; else it becomes the neighbour above in size
with a probability of its way there. Finite values stay finite, infinities stay, NaN is the quiet one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith.config.table import Storage

U32 = np.uint32
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]


def rounded(values: Floats, chance: Words, storage: Storage) -> Floats:
    """``values`` as they read after they were stored, of the same shape."""
    if storage == "float32":
        return values
    bits = values.view(U32)
    size, sign = bits & U32(0x7FFFFFFF), bits & U32(0x80000000)
    kept = _bfloat16(size, chance) if storage == "bfloat16" else _float16(size, chance)
    special = np.where(size > U32(0x7F800000), U32(0x7FC00000), U32(0x7F800000))
    return (sign | np.where(size >= U32(0x7F800000), special, kept)).view(np.float32)


def _bfloat16(size: Words, chance: Words) -> Words:
    with np.errstate(over="ignore"):
        up = (size + (chance >> U32(16))) & U32(0xFFFF0000)
    finite: Words = np.minimum(up, U32(0x7F7F0000))
    return finite


def _float16(size: Words, chance: Words) -> Words:
    """In steps of the tenth bit after the first, or of 2^-24 below 2^-14; 65504 at most."""
    with np.errstate(over="ignore"):
        normal = (size + (chance >> U32(19))) & U32(0xFFFFE000)
    finite = np.where(size < U32(0x7F800000), size, U32(0)).view(np.float32).astype(np.float64)
    steps = np.minimum(finite, 2.0**-14) * 2.0**24
    whole = np.floor(steps)
    up = chance * 2.0**-32 < steps - whole
    small = ((whole + up) * 2.0**-24).astype(np.float32).view(U32)
    kept: Words = np.minimum(np.where(size < U32(0x38800000), small, normal), np.float32(65504).view(U32))
    return kept
