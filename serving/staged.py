"""The parts of a delta as they were staged (``staging``), read back by whoever commits them: as one.

What comes out is what one process would have handed in: rows in the order of their keys, each id once. Memory is a
piece of each part, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xxhash

from monolith.errors import CorruptError, InputError, UnavailableError
from monolith.serving.packed import Ids, PackedDelta, PackedTable
from monolith.serving.payload import Packed
from monolith.serving.staging import CHECKSUM, Receipt, Ticket
from monolith.serving.wire import decode


class StagedPart:
    """One part. Everything that reads it raises UnavailableError unless it is what its receipt tells of."""

    def __init__(self, ticket: Ticket, receipt: Receipt, pieces: Iterator[bytes], where: str) -> None:
        self._where = f"part {receipt.part} of delta {ticket.sequence}, staged in {where},"
        self._receipt = receipt
        self._tables = self._decoded(pieces)
        self._next = next(self._tables, None)

    def take(self, name: str) -> Iterator[PackedTable]:
        """The pieces of one table: tables are taken by name."""
        while self._next is not None and self._next[0] == name:
            yield self._next[1]
            self._next = next(self._tables, None)

    def finish(self) -> None:
        """Nothing may be left once all tables are taken."""
        if self._next is not None:
            raise self._damaged(f"has a piece of table {self._next[0]!r} out of its place")

    def _decoded(self, pieces: Iterator[bytes]) -> Iterator[tuple[str, PackedTable]]:
        digest, count = xxhash.xxh3_64(), 0
        for data in pieces:
            try:
                published = decode(data, self._where)
            except CorruptError as error:
                raise self._damaged(str(error)) from error
            digest.update(data[CHECKSUM])
            count += 1
            yield from published.delta.tables.items()
        if (count, digest.intdigest()) != (self._receipt.pieces, self._receipt.digest):
            raise self._damaged(f"has {count} pieces that are not the {self._receipt.pieces} of its receipt")

    def _damaged(self, how: str) -> UnavailableError:
        return UnavailableError(f"{self._where} is not as it was staged: {how}; nothing was written, try again")


def rows_of(ticket: Ticket, parts: Sequence[StagedPart]) -> Iterator[tuple[str, Ids, Packed]]:
    """All rows of an image: by table, in the order of their keys, in pieces.

    Raises InputError where two parts have the same id.
    """
    for name in sorted(ticket.tables):
        for ids, packed in _merged([part.take(name) for part in parts], f"delta {ticket.sequence}, table {name!r}"):
            yield name, ids, packed
    for part in parts:
        part.finish()


def joined(ticket: Ticket, parts: Sequence[StagedPart], bare: PackedDelta) -> PackedDelta:
    """``bare``, a delta without rows, with those of all parts and the ids that they remove."""
    tables = {}
    for name in sorted(ticket.tables):
        tables[name] = _joined([piece for part in parts for piece in part.take(name)], bare.tables[name])
    for part in parts:
        part.finish()
    return replace(bare, tables={name: tables[name] for name in ticket.tables})


def _joined(pieces: Sequence[PackedTable], none: PackedTable) -> PackedTable:
    ids = np.concatenate([none.ids, *(piece.ids for piece in pieces)])
    packed = np.concatenate([none.packed, *(piece.packed for piece in pieces)])
    removed = np.concatenate([none.removed, *(piece.removed for piece in pieces)])
    order = np.argsort(ids)
    return replace(none, ids=ids[order], packed=packed[order], removed=np.sort(removed))


@dataclass(slots=True)
class _Head:
    """The rows of one part that are read and not handed out yet."""

    pieces: Iterator[PackedTable]
    keys: npt.NDArray[np.uint64]
    packed: Packed

    def before(self, end: np.uint64) -> tuple[npt.NDArray[np.uint64], Packed]:
        """Take the rows up to and with key ``end``."""
        count = int(np.searchsorted(self.keys, end, side="right"))
        taken = self.keys[:count], self.packed[:count]
        self.keys, self.packed = self.keys[count:], self.packed[count:]
        return taken

    def has_rows(self) -> bool:
        """Whether there are any, after reading on where it takes that."""
        while not len(self.keys):
            piece = next(self.pieces, None)
            if piece is None:
                return False
            self.keys, self.packed = piece.ids.astype(np.int64, copy=False).view(np.uint64), piece.packed
        return True


def _merged(parts: Sequence[Iterator[PackedTable]], what: str) -> Iterator[tuple[Ids, Packed]]:
    """The rows of all parts, each in the order of keys: that of the ids as unsigned numbers."""
    heads = [_Head(pieces, np.zeros(0, np.uint64), np.zeros((0, 0), np.uint8)) for pieces in parts]
    last = -1
    while heads := [head for head in heads if head.has_rows()]:
        end = min(head.keys[-1] for head in heads)
        taken = [rows for rows in (head.before(end) for head in heads) if len(rows[0])]
        keys = np.concatenate([rows[0] for rows in taken])
        order = np.argsort(keys)
        keys = keys[order]
        if int(keys[0]) <= last or (keys[1:] == keys[:-1]).any():
            raise InputError(f"{what}: two parts have the same id; nothing was written")
        last = int(keys[-1])
        yield keys.view(np.int64), np.concatenate([rows[1] for rows in taken])[order]
