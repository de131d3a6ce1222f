"""Columns of features to packed rows, all rows at once: the way back from `FeatureSchema.unpack`.

The layout of a packed row is in `monolith.tables.schema`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.tables.batch import Flags, Ints, spans


@dataclass(frozen=True, slots=True, eq=False)
class PackedIds:
    """At most one id a row."""

    ids: Ints  # (n,); 0 where there is none
    present: Flags  # (n,)


@dataclass(frozen=True, slots=True, eq=False)
class PackedNumbers:
    """Dense numbers, before their transforms."""

    numbers: npt.NDArray[np.float64]  # (n, width); NaN: missing


@dataclass(frozen=True, slots=True, eq=False)
class PackedBags:
    """Any number of ids a row, each weighing 1."""

    ids: Ints  # (total,)
    lengths: Ints  # (n,)


PackedPiece = PackedIds | PackedNumbers | PackedBags


def heads_of(
    kind: np.dtype[np.void], before: npt.NDArray[np.uint8], pieces: Sequence[PackedPiece]
) -> npt.NDArray[np.uint8]:
    """``before`` (rows, size), then the heads of packed rows: (rows, size + kind.itemsize).

    ``pieces`` are in the order of the layout, and fill it.
    """
    rows, size = before.shape
    whole = np.empty((rows, size + kind.itemsize), np.uint8)
    whole[:, :size] = before
    heads = whole[:, size:].view(kind)[:, 0] if kind.itemsize else np.zeros(rows, kind)
    singles = [piece for piece in pieces if isinstance(piece, PackedIds)]
    if singles:
        heads["presence"] = np.packbits(np.stack([p.present for p in singles], axis=1), axis=1, bitorder="little")
        for i, single in enumerate(singles):
            heads["ids"][:, i] = single.ids
    dense = [piece.numbers for piece in pieces if isinstance(piece, PackedNumbers)]
    if dense:
        heads["dense"] = np.concatenate(dense, axis=1)
    for i, bag in enumerate([piece for piece in pieces if isinstance(piece, PackedBags)]):
        heads["bags"][:, i] = 2 * bag.lengths
    return whole


def bag_data_of(rows: int, pieces: Sequence[PackedPiece]) -> tuple[npt.NDArray[np.uint8], Ints]:
    """What follows the heads: bytes (total,) and how many of them each row has (rows,)."""
    bags = [piece for piece in pieces if isinstance(piece, PackedBags)]
    if not bags:
        return np.zeros(0, np.uint8), np.zeros(rows, np.int64)
    lengths = np.stack([bag.lengths for bag in bags], axis=1)
    starts = (np.cumsum(lengths.ravel()) - lengths.ravel()).reshape(lengths.shape)
    words = np.empty(int(lengths.sum()), "<i8")
    for i, bag in enumerate(bags):
        words[spans(starts[:, i], bag.lengths)] = bag.ids
    return words.view(np.uint8), 8 * lengths.sum(axis=1)
