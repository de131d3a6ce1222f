"""Which ids of a ``kind: cafe`` table are hot, and which rows they have: all that the table is besides its rows.

`tables.cafe` says by what rule. Where several processes divide a table's rows, each has the whole index and tells it of
all their ids' gradients, in one order: so all say the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.kinds import Cafe
from monolith.errors import CorruptError
from monolith.tables import _core
from monolith.tables.arguments import Ids
from monolith.tables.batch import Bag
from monolith.tables.delta import Delta
from monolith.tables.embedding import Seen
from monolith.tables.tail import tail_numbers

SCORED = 4  # of so many steps one is scored: to score all would take a tenth of the time of training
EXCHANGE = 32  # steps
CELL_BYTES = 16  # of an id, its score and its slot
_KEPT_SEQUENCES = 4096  # for which ids that lost their row are known, as in a collisionless table

Floats = npt.NDArray[np.float32]


class Newcomers(NamedTuple):
    """Ids that got rows of their own, and the rows whose values those start with."""

    numbers: Ids  # (n,) of the rows that they got
    shared: Ids  # (n,) of the rows that they shared


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds, behind a CRC-32 (4 bytes, little-endian) of the rest: MessagePack, arrays little-endian."""

    ids: bytes  # of the cells, int64
    scores: bytes  # float32
    slots: bytes  # int32; -1: no row of its own
    weight: float
    steps: int
    gone: list[tuple[int, int]]  # ids that lost their row, ascending, and in which sequence
    version: int = 1


class HotIndex:
    """Calls that change it come one at a time."""

    def __init__(self, kind: Cafe) -> None:
        self.kind = kind
        self._hot = _core.HotIds(kind.rows, kind.own_rows, kind.score_decay)
        self._steps = 0
        self._gone: dict[int, int] = {}

    @property
    def steps(self) -> int:
        """That were ended."""
        return self._steps

    # --- a step -------------------------------------------------------------------------------------------------------

    def keys(self, ids: Ids) -> Ids:
        """The number of each id's row, its own or a shared one, (n,)."""
        return self._hot.keys(ids)

    @property
    def exchanges(self) -> bool:
        """Whether rows change hands at the end of the step after those that were ended."""
        return (self._steps + 1) % EXCHANGE == 0

    @property
    def scores(self) -> bool:
        """Whether the step after those that were ended is one whose gradients count."""
        return (self._steps + 1) % SCORED == 0

    def see(self, seen: Sequence[Seen], *, mean: bool) -> None:
        """Add the gradients' norms to the ids' scores."""
        for ids, bag, grads in seen:
            self._hot.add(ids, *_arrays(bag), mean, grads)

    def amounts(self, bag: Bag, grads: Floats, *, mean: bool) -> Floats:
        """What ``see`` would add for each id of ``bag``, by its vectors' gradients (batch, dim); (total,)."""
        return self._hot.amounts(len(bag.ids), *_arrays(bag), mean, grads)

    def add(self, ids: Ids, amounts: Floats) -> None:
        """Add such amounts to the scores of ids (n,)."""
        self._hot.add_amounts(ids, amounts)

    def end_step(self, sequence: int) -> Newcomers | None:
        """Scores decay, and now and then rows change hands: to whom. ``sequence`` is the open one."""
        exchanges = self.exchanges
        self._steps += 1
        self._hot.end_step()
        if not exchanges:
            return None
        ids, slots, removed = self._hot.exchange()
        self._gone |= dict.fromkeys(removed.tolist(), sequence)
        for one in ids.tolist():
            self._gone.pop(one, None)
        return Newcomers(slots + self.kind.rows, tail_numbers(ids, self.kind.rows)) if len(ids) else None

    # --- what is published --------------------------------------------------------------------------------------------

    def own_ids(self) -> tuple[Ids, Ids]:
        """The ids that have rows of their own, ascending, and the numbers of these rows; (n,) both."""
        ids, _, slots, _ = self._hot.state()
        own = np.flatnonzero(slots >= 0)
        order = own[np.argsort(ids[own])]
        return ids[order], slots[order].astype(np.int64) + self.kind.rows

    def closed(self, sequence: int) -> None:
        """A sequence was closed: forget who lost a row long before it."""
        self._gone = {one: lost for one, lost in self._gone.items() if lost > sequence - _KEPT_SEQUENCES}

    def published(self, delta: Delta, *, removals: bool = True) -> Delta:
        """A delta of all rows by number, or of some buckets of them, as own rows by id, and a tail of shared ones.

        ``removals``: with the ids that lost their rows, which are of no bucket.
        """
        is_own = delta.ids >= self.kind.rows
        ids, numbers = self.own_ids()
        places = np.full(self.kind.own_rows, -1)
        places[numbers - self.kind.rows] = np.arange(len(ids))
        at = places[delta.ids[is_own] - self.kind.rows]
        held = np.flatnonzero(at >= 0)  # the others belong to nobody by now
        order = held[np.argsort(at[held])]  # by id
        since, none = delta.base_sequence, np.zeros(0, np.int64)
        gone = sorted(one for one, lost in self._gone.items() if lost > since) if since and removals else []
        tail = Delta(since, delta.sequence, delta.ids[~is_own], delta.values[~is_own], none, None, delta.buckets)
        own = delta.values[is_own][order]
        return Delta(since, delta.sequence, ids[at[order]], own, np.array(gone, np.int64), tail, delta.buckets)

    # --- what is kept -------------------------------------------------------------------------------------------------

    @property
    def num_bytes(self) -> int:
        """The cells, which say which ids have rows of their own."""
        return CELL_BYTES * self._hot.cells

    def kept(self) -> bytes:
        """The scores, and who has which row."""
        ids, scores, slots, weight = self._hot.state()
        arrays = (ids.astype("<i8").tobytes(), scores.astype("<f4").tobytes(), slots.astype("<i4").tobytes())
        data = msgspec.msgpack.encode(_Kept(*arrays, weight, self._steps, sorted(self._gone.items())))
        return zlib.crc32(data).to_bytes(4, "little") + data

    def keep(self, data: bytes, where: str) -> None:
        """Be what ``kept`` said. Raises CorruptError, naming ``where``, and is as before then."""
        if len(data) < 4 or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            raise CorruptError(f"{where} is missing or damaged: {len(data)} bytes, whose checksum does not hold")
        try:
            kept = msgspec.msgpack.decode(data[4:], type=_Kept)
            ids = np.frombuffer(kept.ids, "<i8").astype(np.int64)
            scores = np.frombuffer(kept.scores, "<f4").astype(np.float32)
            slots = np.frombuffer(kept.slots, "<i4").astype(np.int32)
        except (msgspec.DecodeError, ValueError) as error:
            raise CorruptError(f"{where} cannot be read: {error}") from None
        if kept.version != 1 or not self._hot.restore(ids, scores, slots, kept.weight):
            raise CorruptError(f"{where} holds no scores of a table with {self.kind.own_rows} own rows")
        self._steps, self._gone = kept.steps, dict(kept.gone)


def _arrays(bag: Bag) -> tuple[npt.NDArray[np.int32] | None, Floats | None]:
    lengths = None if bag.one_each else np.ascontiguousarray(bag.lengths, np.int32)
    return lengths, None if bag.weights is None else np.ascontiguousarray(bag.weights, np.float32)
