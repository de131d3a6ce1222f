"""``SampleBlock``: joined samples of consecutive rows as columns, on their way from a columnar source to the joiner.

A block stands for as many records, one an offset; a step may take a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.tables.batch import Floats, Ints

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Byte strings of any length, one after the other."""

    data: Bytes  # (total,)
    lengths: Ints  # (n,)

    def rows(self, start: int, stop: int) -> Pieces:
        """Those with numbers ``start`` to ``stop``; shares memory."""
        first = int(self.lengths[:start].sum())
        last = first + int(self.lengths[start:stop].sum())
        return Pieces(self.data[first:last], self.lengths[start:stop])


@dataclass(frozen=True, slots=True, eq=False)
class SampleBlock:
    """``n`` samples that fit the job, none of them with a time that looks like another unit. Shared, never changed."""

    partition: int
    offset: int  # of the first; the others follow, one each
    event_time_ms: Ints  # (n,), the time of ingestion as well
    labels: Floats  # (n,)
    heads: Bytes  # (n, `FeatureSchema.head_bytes`): what packed rows begin with
    bag_data: Pieces  # n: what follows the heads
    keys: Pieces  # 2 n: request and item id of each, UTF-8

    def __len__(self) -> int:
        return len(self.event_time_ms)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed rows and keys."""
        return self.heads.size + len(self.bag_data.data) + len(self.keys.data)

    def rows(self, start: int, stop: int) -> SampleBlock:
        """The samples with numbers ``start`` to ``stop``; shares memory."""
        return SampleBlock(
            self.partition,
            self.offset + start,
            self.event_time_ms[start:stop],
            self.labels[start:stop],
            self.heads[start:stop],
            self.bag_data.rows(start, stop),
            self.keys.rows(2 * start, 2 * stop),
        )

    def precedes(self, other: object) -> bool:
        """Whether ``other`` is the block of the rows right behind this one."""
        return (
            isinstance(other, SampleBlock)
            and other.partition == self.partition
            and other.offset == self.offset + len(self)
        )


def concatenated(blocks: Sequence[SampleBlock]) -> SampleBlock:
    """One block of blocks that follow one another."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return SampleBlock(
        first.partition,
        first.offset,
        np.concatenate([block.event_time_ms for block in blocks]),
        np.concatenate([block.labels for block in blocks]),
        np.concatenate([block.heads for block in blocks]),
        _joined([block.bag_data for block in blocks]),
        _joined([block.keys for block in blocks]),
    )


def _joined(pieces: Sequence[Pieces]) -> Pieces:
    return Pieces(np.concatenate([one.data for one in pieces]), np.concatenate([one.lengths for one in pieces]))
