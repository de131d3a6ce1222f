"""Ids by who has their buckets: what of a batch goes to which owner of a table's rows, and the way back.

A table's rows lie in 1,024 buckets by a hash of their keys (``docs/formats.md``). Whoever divides a table gives each
bucket an owner, a number from 0 on; ids are then split in native code, in their order, so that a split is a function of
the ids and the owners alone. Where a feature shares a table but not its rows, the key is the salted id, and so is the
bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.tables import _core
from monolith.tables.arguments import Ids, checked_ids
from monolith.tables.buckets import BUCKETS, Buckets
from monolith.tables.hashing import feature_salt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Which of ``count`` owners has each bucket.

    Raises InputError for anything but (1,024,) integers from 0 to ``count - 1``.
    """

    of_bucket: npt.NDArray[np.int32]  # (1,024,)
    count: int

    def __post_init__(self) -> None:
        given = np.asarray(self.of_bucket)
        if given.shape != (BUCKETS,) or given.dtype.kind not in "iu":
            raise InputError(
                f"owners are {given.dtype} of shape {given.shape}: give each of {BUCKETS} buckets a number"
            )
        if self.count < 1 or not 0 <= given.min() <= given.max() < self.count:
            raise InputError(
                f"owners are {given.min()} to {given.max()}; allowed: 0 to {self.count - 1}, of {self.count}"
            )
        object.__setattr__(self, "of_bucket", np.ascontiguousarray(given, np.int32))

    @classmethod
    def evenly(cls, count: int) -> Owners:
        """``count`` owners with a run of buckets each, as equal as can be: owner i has those of ``buckets(i)``."""
        if not 1 <= count <= BUCKETS:
            raise InputError(f"{count} owners; allowed: 1 to {BUCKETS}, so that each has a bucket")
        return cls((np.arange(BUCKETS) * count // BUCKETS).astype(np.int32), count)

    def buckets(self, owner: int) -> Buckets:
        """The buckets of one owner."""
        return Buckets.of_mask(self.of_bucket == owner)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Where ids went. ``positions[ends[i - 1]:ends[i]]`` are those of owner i, in the order of the ids."""

    positions: Positions  # (m,): in the ids that were split, owner after owner
    ends: Positions  # (owners,): where each owner's end in `positions`
    back: Positions  # (n,): where each of the ids is in `positions`, so that `parts_in_their_order[back]` is per id
    counts: Positions  # (owners,): how many of the ids, with repeats, each owner has

    def of(self, owner: int) -> Positions:
        """Positions of one owner's ids, ascending."""
        return self.positions[self.ends[owner - 1] if owner else 0 : self.ends[owner]]

    def parts(self) -> list[Positions]:
        """Those of every owner."""
        return [self.of(owner) for owner in range(len(self.ends))]

    def places(self) -> tuple[Positions, Positions]:
        """For each of the ids, which owner's part has it, and at which position of that part: (n,) and (n,)."""
        owners = np.searchsorted(self.ends, self.back, side="right")
        return owners, self.back - np.concatenate([np.zeros(1, np.int64), self.ends])[owners]


def split_ids(ids: Ids, owners: Owners, *, salted_by: str | None = None) -> Split:
    """Every one of ``ids`` (n,) int64, repeats too: ``positions`` is a permutation, ``back`` its inverse.

    ``salted_by`` is the feature whose name salts the ids, None: they are the table's keys. Raises InputError.
    """
    return Split(*_core.split(checked_ids(ids), _salt(salted_by), owners.of_bucket, owners.count))


def split_unique(ids: Ids, owners: Owners, *, salted_by: str | None = None) -> Split:
    """Each of ``ids`` (n,) int64 once, at its first occurrence; ``back`` leads every occurrence to it.

    What is asked of owners once an id: ``rows = concatenate(rows of parts)``, then ``rows[back]`` is a row an id.
    Raises InputError.
    """
    return Split(*_core.split_unique(checked_ids(ids), _salt(salted_by), owners.of_bucket, owners.count))


def buckets_of(ids: Ids, *, salted_by: str | None = None) -> npt.NDArray[np.int64]:
    """The bucket of each of ``ids`` (n,), (n,). Raises InputError."""
    return _core.buckets(checked_ids(ids), _salt(salted_by))


def _salt(feature: str | None) -> int | None:
    return None if feature is None else feature_salt(feature)
