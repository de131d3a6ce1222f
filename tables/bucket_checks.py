"""What the arrays of a bucket must satisfy beyond their checksum.

A checksum says that the bytes are as somebody wrote them, not that he wrote a table: a file of another program, or one
that was put together from parts, can have every checksum right and hold an id twice. Such a file is refused before the
native core sees it, which trusts what it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.tables.split import buckets_of

Ids = npt.NDArray[np.int64]

_UINT32 = 2**32 - 1


def bucket_faults(number: int, bucket: dict[str, npt.NDArray[Any]], sequence: int, policies: int = 0) -> Iterator[str]:
    """Everything that is wrong with bucket ``number`` of a table whose open sequence is ``sequence``, in words.

    ``policies`` is how many features have rules of their own: an id may be counted for each.
    """
    for name in ("ids", "counter_ids", "tombstone_ids"):
        of = bucket.get("counter_policies") if name == "counter_ids" else None
        yield from _id_faults(name, number, bucket[name], of)
    marks = ("marks", "tombstone_marks", "tail_marks")
    for name, highest in (*((name, sequence) for name in marks), ("counts", _UINT32)):
        yield from _range_faults(name, bucket[name], 1, highest)
    for name, highest in (("uses", _UINT32), ("policies", policies), ("counter_policies", policies)):
        yield from _range_faults(name, bucket[name], 0, highest)  # uses may have decayed to nothing
    for name, what in (("counter_ids", "is counted"), ("tombstone_ids", "was removed")):
        both = _shared(bucket["ids"], bucket[name])
        if both.size:
            yield f"id {both[0]} has a row, yet {what}: an id is one or the other"


def _shared(ids: Ids, others: Ids) -> Ids:
    """Those of ``others`` that are among the ascending ``ids``."""
    if not ids.size or not others.size:
        return others[:0]
    places = np.minimum(np.searchsorted(ids, others), len(ids) - 1)
    found: Ids = others[ids[places] == others]
    return found


def _id_faults(name: str, number: int, ids: Ids, policies: npt.NDArray[Any] | None) -> Iterator[str]:
    if not ids.size:
        return
    follows = ids[1:] > ids[:-1]
    if policies is not None and policies.size:
        follows |= (ids[1:] == ids[:-1]) & (policies[1:] > policies[:-1])
    falls = np.flatnonzero(~follows)
    if falls.size:
        at = int(falls[0])
        yield f"{name} do not ascend: {ids[at + 1]} follows on {ids[at]}"
    buckets = buckets_of(ids)
    strays = np.flatnonzero(buckets != number)
    if strays.size:
        at = int(strays[0])
        yield f"{name} holds {ids[at]}, which belongs into bucket {buckets[at]}"


def _range_faults(name: str, values: npt.NDArray[np.uint32], lowest: int, highest: int) -> Iterator[str]:
    for value in (values.min(), values.max()) if values.size else ():
        if not lowest <= value <= highest:
            yield f"{name} holds {value}; allowed: {lowest} to {highest}"
