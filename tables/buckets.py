"""Some of a table's 1,024 buckets, as ranges: what a part of a table is said in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError

BUCKETS = 1024


@dataclass(frozen=True, slots=True)
class Buckets:
    """Ranges ``[first, end)`` of buckets: ascending, apart, none empty. Equal sets are equal."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, *ranges: tuple[int, int]) -> Buckets:
        """The buckets of ``ranges``, each ``(first, end)``, in any order; they may touch.

        Raises InputError for a range that is empty or beyond 0 to 1,024, and for two that overlap.
        """
        merged: list[tuple[int, int]] = []
        for first, end in sorted(ranges):
            if not 0 <= first < end <= BUCKETS:
                raise InputError(f"buckets [{first}, {end}): a range has 0 <= first < end <= {BUCKETS}")
            if merged and first < merged[-1][1]:
                raise InputError(f"buckets [{first}, {end}) overlap [{merged[-1][0]}, {merged[-1][1]}): give each once")
            if merged and first == merged[-1][1]:
                merged[-1] = merged[-1][0], end
            else:
                merged.append((first, end))
        return cls(tuple(merged))

    @classmethod
    def of_mask(cls, mask: npt.NDArray[np.bool_]) -> Buckets:
        """Those whose ``mask`` (1,024,) is true."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
        return cls(tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2)))

    def mask(self) -> npt.NDArray[np.bool_]:
        """Whether each bucket is among them, (1,024,)."""
        mask = np.zeros(BUCKETS, np.bool_)
        for first, end in self.ranges:
            mask[first:end] = True
        return mask

    def __iter__(self) -> Iterator[int]:
        for first, end in self.ranges:
            yield from range(first, end)

    def __len__(self) -> int:
        return sum(end - first for first, end in self.ranges)

    def __contains__(self, bucket: object) -> bool:
        return isinstance(bucket, int) and any(first <= bucket < end for first, end in self.ranges)

    def __and__(self, other: Buckets) -> Buckets:
        return Buckets.of_mask(self.mask() & other.mask())

    def __sub__(self, other: Buckets) -> Buckets:
        return Buckets.of_mask(self.mask() & ~other.mask())

    @property
    def all(self) -> bool:
        """Whether they are all 1,024."""
        return len(self) == BUCKETS

    def __str__(self) -> str:
        names = [f"{first}" if end == first + 1 else f"{first} to {end - 1}" for first, end in self.ranges]
        return f"bucket{'s' if len(self) != 1 else ''} {', '.join(names) or 'of no number'}"


ALL_BUCKETS = Buckets.of((0, BUCKETS))


def union(parts: Iterable[Buckets]) -> Buckets:
    """All buckets of ``parts`` together."""
    mask = np.zeros(BUCKETS, np.bool_)
    for part in parts:
        mask |= part.mask()
    return Buckets.of_mask(mask)
