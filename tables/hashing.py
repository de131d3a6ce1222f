"""From strings and shared ids to the 64-bit keys of a table. Frozen: a change would orphan every saved row.

``hash_string(feature, value)`` is XXH3-64 of the value's UTF-8 bytes, all of them, seeded by XXH3-64 (seed 0) of the
feature's name, read as a signed integer. Two strings collide with probability 2^-64 a pair.
``salted(feature, ids)`` is ``mix64(id XOR XXH3-64(name))``, a bijection of the 64-bit ids for each feature.
``tail_numbers(ids, rows)``, in ``monolith.tables.tail``, is which of a tail's rows an id without a row reads.
``tests/golden/hashing.json`` holds vectors for all three.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

from monolith.tables import _core
from monolith.tables.arguments import checked_ids

_SIGN = 1 << 63
_RANGE = 1 << 64


def hash_string(feature: str, value: str) -> int:
    """The id of ``value`` in ``feature``, a signed 64-bit integer."""
    return _signed(xxhash.xxh3_64_intdigest(_utf8(value), seed=feature_salt(feature)))


def hash_strings(feature: str, values: Iterable[str]) -> npt.NDArray[np.int64]:
    """The ids of ``values``, (n,) int64."""
    salt, digest = feature_salt(feature), xxhash.xxh3_64_intdigest
    return np.array([digest(_utf8(value), seed=salt) for value in values], np.uint64).view(np.int64)


def salted(feature: str, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The keys of ``ids`` (n,) in a table that other features use as well; distinct ids stay distinct.

    Raises InputError for anything but a one-dimensional int64 array.
    """
    return _core.salted(checked_ids(ids), feature_salt(feature))


@lru_cache(maxsize=4096)
def feature_salt(feature: str) -> int:
    """XXH3-64 of the feature's name: the seed of its strings, the salt of its ids; unsigned."""
    return xxhash.xxh3_64_intdigest(_utf8(feature))


def table_key(name: str, seed: int) -> int:
    """XXH3-64 of the table's name, seeded: what first values and admission draws start from; unsigned."""
    return xxhash.xxh3_64_intdigest(_utf8(name), seed=seed)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can hold lone surrogates, and they are still a value


def _signed(unsigned: int) -> int:
    return unsigned - _RANGE if unsigned >= _SIGN else unsigned
