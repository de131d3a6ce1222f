"""What an owner does with the questions of all ranks: each part's step, in the order of the global batch.

The global batch is the ranks' batches one after the other, by rank. Within a table, occurrences come by feature, then
by rank, then by position: the order in which one process would meet them. So counts, admission, expiry and eviction
are what one process would decide, whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.events import WATERMARK_START
from monolith.tables import Table, _core
from monolith.tables.delta import Delta
from monolith.tables.feature_runs import FeatureRuns
from monolith.tables.tail import tail_numbers
from monolith.training.sharding.division import Division
from monolith.training.sharding.questions import HEAD, NO_TIME, ONE_TIME, POSITION_BITS, STEP, TIME_EACH

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_PLACE = (1 << POSITION_BITS) - 1
_NO_TIMES = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class OwnPart:
    """A part of a table that this rank has."""

    number: int  # of the table, in the collection
    division: Division
    part: int  # of the table
    table: Table

    def delta(self, since: int) -> Delta:
        """What is published of what changed after sequence ``since``. Raises as ``Table.delta``."""
        delta, index = self.table.delta(since), self.division.native.index
        return delta if index is None else index.published(delta, removals=self.part == 0)


@dataclass(slots=True)
class Asked:
    """What one rank asks of one part."""

    occurrences: int
    ids: Ints
    times: Ints | None = None  # of each id, or of each occurrence where those are asked for
    by_feature: list[Ints] | None = None  # occurrences: position << 32 | place


class Questioner:
    """Reads one rank's message from front to back."""

    def __init__(self, message: Ints, tables: int) -> None:
        self.kind, self.time_kind, self.time = (int(number) for number in message[:HEAD])
        self.latest = message[HEAD : HEAD + tables]
        self._message, self._size_at = message, HEAD + tables
        self._data_at = 0

    def read(self, parts: Sequence[OwnPart], *, exact: bool) -> list[Asked]:
        """What is asked of each of ``parts``."""
        divisions = [part.division for part in parts]
        counted = [self.kind == STEP and (each.in_order(exact=exact) or each.counted) for each in divisions]
        widths = [2 + (len(part.division.features) if each else 0) for part, each in zip(parts, counted, strict=True)]
        self._data_at = self._size_at + sum(widths)
        return [self._part(width, each) for width, each in zip(widths, counted, strict=True)]

    def _part(self, width: int, counted: bool) -> Asked:
        sizes = self._message[self._size_at : self._size_at + width].tolist()
        self._size_at += width
        asked = Asked(sizes[0], self._take(sizes[1]))
        if counted:
            asked.by_feature = [self._take(size) for size in sizes[2:]]
        if self.time_kind == TIME_EACH:
            asked.times = self._take(sum(sizes[2:]) if counted else sizes[1])
        elif self.time_kind == ONE_TIME:
            asked.times = np.full(sum(sizes[2:]) if counted else sizes[1], self.time, np.int64)
        return asked

    def _take(self, size: int) -> Ints:
        self._data_at += size
        return self._message[self._data_at - size : self._data_at]


def questioners(messages: Sequence[Ints], tables: int) -> list[Questioner]:
    """The messages' heads. Raises InputError where ranks do not ask for the same kind of thing, alike on all ranks."""
    readers = [Questioner(message, tables) for message in messages]
    for rank, reader in enumerate(readers):
        if (reader.kind, reader.time_kind) != (readers[0].kind, readers[0].time_kind):
            seen = [f"rank {r}: {_described(one)}" for r, one in ((0, readers[0]), (rank, reader))]
            raise InputError(f"ranks disagree about the step ({'; '.join(seen)}): make the same call on every rank")
    return readers


def _described(reader: Questioner) -> str:
    times = {NO_TIME: "no event time", ONE_TIME: "one event time", TIME_EACH: "a time for each sample"}
    return f"{'a training step' if reader.kind == STEP else 'a look-up'} with {times[reader.time_kind]}"


class Shared(NamedTuple):
    """Gradients of rows that ids share, in the order in which they are added."""

    numbers: Ints  # (n,) of the rows
    keys: Ints  # (n,) the place of the occurrence in the global batch; 0: sums have none
    grads: Floats  # (n, dim)


class PartStep:
    """One part's step: waiting for the gradients of its rows.

    Its rows are put where they are sent from: those for rank r at ``flat[begins[r]]`` and on.
    """

    def __init__(
        self, part: OwnPart, asked: Sequence[Asked], clock_ms: int, flat: Floats, begins: Ints, *, exact: bool
    ) -> None:
        self.part = part
        self.in_order = part.division.in_order(exact=exact)
        self.ids: Ints = np.concatenate([each.ids for each in asked])
        self.counts = [len(each.ids) for each in asked]  # of each rank
        self.ends: Ints = np.array(self.counts, np.int64).cumsum()
        self.features: list[list[int]] = []  # occurrences of each rank, by feature
        self._asked = asked
        self.step = _core.Step()
        self.occurrence_keys: Ints | None = None  # of each gradient, where they come in order
        self._in_blocks = False  # the step has a feature for each rank
        self._grads: Floats | None = None
        self._blocks: tuple[Floats, Ints] | None = None
        self.shares = part.division.copies_tail and asked[0].by_feature is not None  # else each id gets its row at once
        self._shared: Shared | None = None
        table = part.table
        with table.writer:
            if clock_ms != WATERMARK_START:
                table.native.advance(clock_ms)
            if asked[0].by_feature is None:
                self._plain(table, flat, begins)
            else:
                self._put(self._counted(table), flat, begins)

    def _plain(self, table: Table, flat: Floats, begins: Ints) -> None:
        times = _together([each.times for each in self._asked])
        self._in_blocks = not len(times)
        if self._in_blocks:
            _core.table_forward_blocks(table.native, self.ids, times, self.step, flat, begins, self.ends)
        else:
            rows = np.empty((len(self.ids), table.dim), np.float32)
            table.native.forward(self.ids, times, self.step, rows, *table.policies.runs(None, len(rows)))
            self._put(rows, flat, begins)
        repeats = sum(each.occurrences for each in self._asked) - len(self.ids)
        if repeats:
            happened = table.native.statistics()
            happened.observed += repeats
            table.native.set_statistics(happened)

    def _put(self, rows: Floats, flat: Floats, begins: Ints) -> None:
        done = 0
        for count, begin in zip(self.counts, begins.tolist(), strict=True):
            block = rows[done : done + count].reshape(-1)
            flat[begin : begin + len(block)] = block
            done += count

    def _counted(self, table: Table) -> Floats:
        places, times, runs = self._in_global_order()
        ids = self.ids[places]
        of_occurrences = np.empty((len(ids), table.dim), np.float32)
        own = table.policies.runs(runs if self.part.division.config.per_feature else None, len(ids))
        table.native.forward(ids, times, self.step, of_occurrences, *own)
        first = np.empty(len(self.ids), np.int64)
        first[places[::-1]] = np.arange(len(places))[::-1]
        if not self.in_order:
            _core.table_begin(table.native, self.ids, self.step)
        if self.in_order:
            self.occurrence_keys = self._keys()
        return of_occurrences[first]

    def _in_global_order(self) -> tuple[Ints, Ints, FeatureRuns]:
        """Of each occurrence the place among all ranks' ids, and the time; and how many each feature has."""
        places, times, runs = [], [], []
        starts = np.cumsum([0, *self.counts[:-1]]).tolist()
        for number, name in enumerate(self.part.division.features):
            here = 0
            for each, start in zip(self._asked, starts, strict=True):
                assert each.by_feature is not None
                own = each.by_feature[number]
                here += len(own)
                places.append((own & _PLACE) + start)
                if each.times is not None:
                    begin = sum(len(other) for other in each.by_feature[:number])
                    times.append(each.times[begin : begin + len(own)])
            runs.append((name, here))
        self.features = [[len(own) for own in each.by_feature or []] for each in self._asked]
        return np.concatenate(places), np.concatenate(times) if times else _NO_TIMES, runs

    def _keys(self) -> Ints:
        """The place of each occurrence in the global batch, as a number that sorts so."""
        keys = []
        for number in range(len(self.part.division.features)):
            for rank, each in enumerate(self._asked):
                assert each.by_feature is not None
                local = each.by_feature[number] >> POSITION_BITS
                keys.append(local + ((number * len(self._asked) + rank) << POSITION_BITS))
        return np.concatenate(keys)

    def received(self, rank: int) -> int:
        """How many gradients come from a rank."""
        return sum(self.features[rank]) if self.in_order else self.counts[rank]

    def take(self, flat: Floats, begins: Ints) -> None:
        """The gradients came, those from rank r at ``flat[begins[r]]`` and on, which stay there until ``apply``."""
        if self._in_blocks:
            self._blocks = flat, begins
            return
        dim = self.part.table.dim
        blocks = [
            flat[begin : begin + self.received(rank) * dim].reshape(-1, dim)
            for rank, begin in enumerate(begins.tolist())
        ]
        self._grads = self._by_feature(blocks) if self.in_order else np.concatenate(blocks)

    def collect(self) -> int:
        """Sum the gradients. Nothing is changed. The place of one that is refused, or -1."""
        native = self.part.table.native
        if self._blocks is not None:
            return _core.table_collect_blocks(native, self.step, *self._blocks, self.ends)
        assert self._grads is not None
        if self._shared is None:
            return _core.table_collect(native, self.step, self._grads)
        return _core.table_collect_shared(native, self.step, self._grads, self._shared.grads)

    def sharing(self) -> Shared:
        """The gradients of occurrences whose ids have no row. Once they were taken."""
        assert self._grads is not None
        places = _core.table_sharing(self.part.table.native, self.step)
        numbers = tail_numbers(self._ids_of_gradients()[places], self.part.division.config.tail_rows)
        keys = self.occurrence_keys[places] if self.occurrence_keys is not None else np.zeros(len(places), np.int64)
        return Shared(numbers, keys, self._grads[places])

    def share_instead(self, shared: Shared) -> None:
        """Take those of all parts in place of the part's own, before ``collect``."""
        self._shared = shared
        counts = self.part.part == 0  # what the shared rows of all parts come to
        _core.table_share_instead(self.part.table.native, self.step, shared.numbers, counts)

    def _by_feature(self, grads: Sequence[Floats]) -> Floats:
        blocks = [np.split(own, np.cumsum(sizes)[:-1]) for own, sizes in zip(grads, self.features, strict=True)]
        return np.concatenate([block[number] for number in range(len(self.part.division.features)) for block in blocks])

    def _ids_of_gradients(self) -> Ints:
        return self.ids[self._in_global_order()[0]] if self.in_order else self.ids

    def named(self, position: int) -> tuple[int, int]:
        """Whose a gradient is, by its place: 0 and the id, or 1 and the number of a shared row."""
        ids = self._ids_of_gradients()
        if self._shared is not None and position >= len(ids):
            return 1, int(self._shared.numbers[position - len(ids)])
        return 0, int(ids[position])

    def squares(self) -> list[npt.NDArray[np.float64]]:
        """For each rule that clips by the norm of all rows, the squares by place of the gradient.

        Those of shared rows follow, which only one part of the table has.
        """
        squares = _core.table_squares(self.part.table.native, self.step)
        if self._shared is None or self.part.part == 0:
            return squares
        return [each[: len(each) - len(self._shared.numbers)] for each in squares]

    def square_keys(self) -> Ints | None:
        """The places in the global batch of the gradients of ``squares``; None: they are sums."""
        if self.occurrence_keys is None or self._shared is None or self.part.part:
            return self.occurrence_keys
        return np.concatenate([self.occurrence_keys, self._shared.keys])

    def apply(self, norms: list[float]) -> None:
        """One optimizer step for each unique id."""
        _core.table_apply(self.part.table.native, self.step, norms)
        self._grads = None


def _together(times: Sequence[Ints | None]) -> Ints:
    given = [each for each in times if each is not None]
    return np.concatenate(given) if given else _NO_TIMES
