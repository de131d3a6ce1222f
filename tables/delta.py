"""What changed between two sequence numbers: of one table, and of a whole model.

A delta holds *absolute* values, so applying it twice, or applying a wider one over a narrower one, ends in the same
state. ``base_sequence == 0`` makes it an image: it holds every row, and what the receiver had before goes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.tables.buckets import ALL_BUCKETS, Buckets


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows written and ids removed in one table after ``base_sequence``, up to and with ``sequence``."""

    base_sequence: int
    sequence: int
    ids: npt.NDArray[np.int64]  # (n,), ascending
    values: npt.NDArray[np.float32]  # (n, dim)
    removed: npt.NDArray[np.int64]  # (m,), ascending; disjoint from ids
    tail: Delta | None = None  # of the rows that absent ids share, by number, where the table has such; none is removed
    buckets: Buckets = ALL_BUCKETS  # of which it says everything


def joined(parts: Sequence[Delta]) -> Delta:
    """The delta of all buckets that ``parts`` are of: what the table would have given for them at once.

    Raises InputError for no part, for parts of other sequences, with a tail and without one, or with a bucket twice.
    """
    if not parts:
        raise InputError("no part of a delta to join: give at least one")
    buckets = Buckets.of(*(each for part in parts for each in part.buckets.ranges))
    for one, other in pairwise(parts):
        if (said := _whose(one)) != (also := _whose(other)):
            raise InputError(
                f"the part of {one.buckets} is {said}, that of {other.buckets} {also}: join the parts of one delta"
            )
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    tails = [part.tail for part in parts if part.tail is not None]
    return Delta(
        parts[0].base_sequence,
        parts[0].sequence,
        ids[order],
        np.concatenate([part.values for part in parts])[order],
        np.sort(np.concatenate([part.removed for part in parts])),
        joined(tails) if tails else None,
        buckets,
    )


def _whose(part: Delta) -> str:
    return f"from sequence {part.base_sequence} to {part.sequence} {'without' if part.tail is None else 'with'} a tail"


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """All tables' deltas and the dense weights of one sequence number: they become visible as one."""

    base_sequence: int
    sequence: int
    step: int  # the training step that it was cut after
    watermark_ms: int
    tables: dict[str, Delta]
    dense: bytes  # safetensors of the dense weights as of `sequence`; empty for a model without any
    ingested_ms: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    # (k,) ingestion times of records first trained into this delta, an evenly spaced sample of at most 256
    digest: str = ""  # names what the sequence was made from: two of one number with one digest are the same bits
