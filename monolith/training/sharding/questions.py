"""What one rank asks of the owners: each id of its batch once, by part; and what it makes of the rows that come back.

A *question* to a rank is one int64 array: a head, the sizes of what is asked of each of the rank's parts, then the ids,
and where a table's rules read every occurrence, those (their feature, place and time) in order. `answers` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.events import WATERMARK_START
from monolith.tables import _core
from monolith.tables.arguments import EventTimes, checked_ids, checked_times
from monolith.tables.batch import Bag
from monolith.tables.hashing import salted
from monolith.tables.split import Split, split_ids, split_unique
from monolith.training.sharding.division import Division

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

LOOKUP, STEP = 0, 1
NO_TIME, ONE_TIME, TIME_EACH = 0, 1, 2
HEAD = 3  # kind, kind of time, the one time
POSITION_BITS = 32  # an occurrence is (position in its feature's ids) << 32 | place among the part's ids


class TableQuestion:
    """One table's ids in one rank's batch: features in declared order, then position."""

    def __init__(self, division: Division, bags: Sequence[Bag], *, counted: bool, in_order: bool) -> None:
        self.division = division
        self.in_order = in_order
        self.bags = bags
        names = division.features
        keys = [checked_ids(bag.ids) for bag in bags]
        if division.salted:
            keys = [salted(name, ids) for name, ids in zip(names, keys, strict=True)]
        self.ends = np.cumsum([len(ids) for ids in keys])  # of each feature
        self.keys: Ints = keys[0] if len(keys) == 1 else np.concatenate(keys)
        self.unique = split_unique(self.keys, division.owners)
        self.by_part: Split | None = split_ids(self.keys, division.owners) if counted else None
        self.starts = np.concatenate([np.zeros(1, np.int64), self.unique.ends])  # of each part's ids

    def times(self, times: Ints) -> Ints:
        """The time of each id, from that of each sample."""
        each = [times if bag.one_each else np.repeat(times, bag.lengths) for bag in self.bags]
        return each[0] if len(each) == 1 else np.concatenate(each)

    def latest(self, times: Ints) -> int:
        """The latest time of a sample that has ids of this table; WATERMARK_START: there is none."""
        if not len(self.keys) or not len(times):
            return WATERMARK_START
        if len(times) == 1:
            return int(times[0])
        return max(
            int(times.max() if bag.one_each else times[bag.lengths > 0].max(initial=WATERMARK_START))
            for bag in self.bags
            if len(bag.ids)
        )

    def occurrences(self) -> Ints:
        """How many of the ids, with repeats, each part has, (parts,)."""
        if self.by_part is not None:
            return np.diff(self.by_part.ends, prepend=0)
        parts = np.searchsorted(self.unique.ends, self.unique.back, side="right")
        return np.bincount(parts, minlength=self.division.parts)

    def asked_of(self, rank: int) -> int:
        """How many ids are asked of a rank."""
        parts = self.division.of(rank)
        return int(self.starts[parts[-1] + 1] - self.starts[parts[0]])

    def split_by_rank(self, grads: Floats, ranks: int) -> list[Floats]:
        """The result of ``gradients`` by who they go to."""
        last = [self.division.of(rank)[-1] for rank in range(ranks)]
        return np.split(grads, self._sent().ends[last][:-1])

    def _sent(self) -> Split:
        return self.by_part if self.in_order and self.by_part is not None else self.unique

    def asked(self, part: int, times: Ints | None) -> tuple[list[int], list[Ints]]:
        """Sizes and arrays for one part: ids; then times, or occurrences by feature with theirs. ``times`` an id."""
        ids = self.keys[self.unique.of(part)]
        if self.by_part is None:
            arrays = [ids] if times is None else [ids, self._latest_of_each(times)[self.starts[part] :][: len(ids)]]
            return [len(ids)], arrays
        positions = self.by_part.of(part)
        places = self.unique.back[positions] - self.starts[part]
        cuts = np.searchsorted(positions, self.ends)
        begins = np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])
        local = positions - np.repeat(begins, np.diff(cuts, prepend=0))
        arrays = [ids, (local << POSITION_BITS) | places]
        if times is not None:
            arrays.append(times[positions])
        return [len(ids), *np.diff(cuts, prepend=0).tolist()], arrays

    def _latest_of_each(self, times: Ints) -> Ints:
        if not hasattr(self, "_latest"):
            self._latest = np.full(len(self.unique.positions), WATERMARK_START, np.int64)
            np.maximum.at(self._latest, self.unique.back, times)
        return self._latest

    # --- the way back -------------------------------------------------------------------------------------------------

    def pool(self, rows: Floats, outs: Sequence[Floats]) -> None:
        """Fill ``outs``, (batch, dim) of each feature, with what its bags come to; ``rows`` (ids asked for, dim)."""
        mean = self.division.config.pooling == "mean"
        for places, bag, out in zip(self._features(self.unique.back), self.bags, outs, strict=True):
            _core.pool_places(rows, places, _lengths(bag), bag.weights, mean, out)

    def gradients(self, grads: Sequence[Floats]) -> Floats:
        """What goes to the owners, from (batch, dim) of each feature: of each id asked for the sum, (ids, dim).

        ``in_order``, it is each occurrence's own instead, part after part, in order.
        """
        split = self._sent()
        mean = self.division.config.pooling == "mean"
        sums = np.empty((len(split.positions), self.division.config.dim), np.float32)
        begun = np.zeros(len(sums), np.bool_)
        for places, bag, grad in zip(self._features(split.back), self.bags, grads, strict=True):
            _core.sum_places(grad, places, _lengths(bag), bag.weights, mean, begun, sums)
        return sums

    def _features(self, places: Ints) -> list[Ints]:
        return np.split(places, self.ends[:-1]) if len(self.ends) > 1 else [places]


class Questions:
    """All tables' ids in one rank's batch. Raises InputError for bags and times that are malformed."""

    def __init__(
        self, divisions: Sequence[Division], bags: Sequence[Bag], times: EventTimes, kind: int, *, in_order: bool
    ) -> None:
        self.samples = len(bags[0].lengths) if bags else 0
        if any(len(bag.lengths) != self.samples for bag in bags):
            raise InputError(f"bags have {[len(bag.lengths) for bag in bags]} samples: give all the same number")
        checked = checked_times(times, self.samples)
        self._kind, self._time_kind = kind, NO_TIME if times is None else ONE_TIME if np.ndim(times) == 0 else TIME_EACH
        self._times = checked
        self.tables: list[TableQuestion] = []
        taken = 0
        for division in divisions:
            own = bags[taken : taken + len(division.features)]
            taken += len(own)
            counted = kind == STEP and (in_order or division.counted)
            self.tables.append(TableQuestion(division, own, counted=counted, in_order=in_order and kind == STEP))

    def messages(self, ranks: int) -> list[Ints]:
        """The question to each rank."""
        one = int(self._times[0]) if self._time_kind == ONE_TIME else 0
        head = np.array([self._kind, self._time_kind, one], np.int64)
        latest = np.array([table.latest(self._times) for table in self.tables], np.int64)
        occurrences = [table.occurrences() for table in self.tables]
        each = [table.times(self._times) if self._time_kind == TIME_EACH else None for table in self.tables]
        messages = []
        for rank in range(ranks):
            sizes: list[int] = []
            arrays: list[Ints] = []
            for table, counts, times in zip(self.tables, occurrences, each, strict=True):
                for part in table.division.of(rank):
                    own_sizes, own = table.asked(part, times)
                    sizes += [int(counts[part]), *own_sizes]
                    arrays += own
            messages.append(np.concatenate([head, latest, np.array(sizes, np.int64), *arrays]))
        return messages


def _lengths(bag: Bag) -> npt.NDArray[np.int32] | None:
    return None if bag.one_each else np.ascontiguousarray(bag.lengths, np.int32)
