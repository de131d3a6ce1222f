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
        self.bags: list[Bag] = []  # of each row that lies beside others in a vector: those of its feature
        keys: list[Ints] = []
        for name, bag in zip(division.names, bags, strict=True):
            own = division.native.keys(name, checked_ids(bag.ids))
            keys += own
            self.bags += [bag] * len(own)
        self.ends: Ints = np.array([len(ids) for ids in keys], np.int64).cumsum()  # of each feature
        self.keys: Ints = keys[0] if len(keys) == 1 else np.concatenate(keys)
        self.unique = split_unique(self.keys, division.owners)
        self.by_part: Split | None = split_ids(self.keys, division.owners) if counted else None
        self.ids: Ints = self.keys[self.unique.positions]  # once each, part after part
        self.starts = [0, *self.unique.ends.tolist()]  # of each part's ids
        self.row_ends: Ints = self.unique.ends[division.last_parts]  # of each rank's ids

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

    @property
    def sent(self) -> Split:
        """What gradients go to the owners: of each id, or ``in_order`` of each occurrence."""
        return self.by_part if self.in_order and self.by_part is not None else self.unique

    def gradient_ends(self) -> Ints:
        """Where the gradients for each rank end, in number, (ranks,)."""
        ends: Ints = self.sent.ends[self.division.last_parts]
        return ends

    def asked(self, part: int, times: Ints | None) -> tuple[list[int], list[Ints]]:
        """Sizes and arrays for one part: ids; then times, or occurrences by feature with theirs. ``times`` an id."""
        ids = self.ids[self.starts[part] : self.starts[part + 1]]
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

    def pool(self, flat: Floats, begins: Ints, out: Floats, column: int) -> None:
        """Fill the columns of ``out`` (batch, all dims) from ``column`` on with what each feature's bags come to.

        The rows that were asked of rank r begin at ``begins[r]`` of ``flat``.
        """
        config = self.division.config
        lengths, weights = self._bags()
        places, mean = self.unique.back, config.pooling == "mean"
        _core.pool_blocks(
            flat, begins, self.row_ends, places, self.ends, lengths, weights, mean, config.dim, out, column
        )

    def gradients(self, grads: Floats, column: int, shared_by: int, flat: Floats, begins: Ints) -> None:
        """Put what goes to the owners into ``flat``, that for rank r from ``begins[r]`` on.

        It is, of each id asked for, the sum over ``grads`` (batch, all dims) from ``column`` on, divided by
        ``shared_by``; ``in_order``, each occurrence's own instead, part after part, in order.
        """
        config = self.division.config
        lengths, weights = self._bags()
        mean = config.pooling == "mean"
        _core.sum_blocks(
            grads,
            column,
            shared_by,
            self.sent.back,
            self.ends,
            lengths,
            weights,
            mean,
            config.dim,
            flat,
            begins,
            self.gradient_ends(),
        )

    def keep_rows(self, flat: Floats, begins: Ints) -> None:
        """Have in ``rows`` the row of each occurrence as it came, (n, dim)."""
        dim, sizes = self.division.config.dim, np.diff(self.row_ends, prepend=0).tolist()
        blocks = [flat[begin : begin + size * dim] for begin, size in zip(begins.tolist(), sizes, strict=True)]
        self.rows: Floats = np.concatenate(blocks).reshape(-1, dim)[self.unique.back]

    def gradients_of_rows(self, grads: Floats, shared_by: int, flat: Floats, begins: Ints) -> None:
        """``gradients``, where each occurrence's is known: ``grads`` (n, dim)."""
        ends = np.array([len(self.keys)], np.int64)
        dim, back, sent = self.division.config.dim, self.sent.back, self.gradient_ends()
        _core.sum_blocks(grads, 0, shared_by, back, ends, [None], [None], False, dim, flat, begins, sent)

    def _bags(self) -> tuple[list[npt.NDArray[np.int32] | None], list[Floats | None]]:
        lengths = [None if bag.one_each else np.ascontiguousarray(bag.lengths, np.int32) for bag in self.bags]
        weights = [None if bag.weights is None else np.ascontiguousarray(bag.weights, np.float32) for bag in self.bags]
        return lengths, weights


class Questions:
    """All tables' ids in one rank's batch. Raises InputError for bags and times that are malformed."""

    def __init__(
        self, divisions: Sequence[Division], bags: Sequence[Bag], times: EventTimes, kind: int, *, exact: bool
    ) -> None:
        self.samples = len(bags[0].lengths) if bags else 0
        if any(len(bag.lengths) != self.samples for bag in bags):
            raise InputError(f"bags have {[len(bag.lengths) for bag in bags]} samples: give all the same number")
        checked = checked_times(times, self.samples)
        self._kind, self._time_kind = kind, NO_TIME if times is None else ONE_TIME if np.ndim(times) == 0 else TIME_EACH
        self._times = checked
        self.tables: list[TableQuestion] = []
        for division in divisions:
            in_order = kind == STEP and division.in_order(exact=exact)
            counted = kind == STEP and (in_order or division.counted)
            self.tables.append(TableQuestion(division, bags[division.outputs], counted=counted, in_order=in_order))

    def messages(self, ranks: int) -> list[Ints]:
        """The question to each rank."""
        one = int(self._times[0]) if self._time_kind == ONE_TIME else 0
        head = np.array([self._kind, self._time_kind, one], np.int64)
        latest = np.array([table.latest(self._times) for table in self.tables], np.int64)
        occurrences = [table.unique.counts.tolist() for table in self.tables]
        each = [table.times(self._times) if self._time_kind == TIME_EACH else None for table in self.tables]
        messages = []
        for rank in range(ranks):
            sizes: list[int] = []
            arrays: list[Ints] = []
            for table, counts, times in zip(self.tables, occurrences, each, strict=True):
                for part in table.division.of(rank):
                    own_sizes, own = table.asked(part, times)
                    sizes += [counts[part], *own_sizes]
                    arrays += own
            messages.append(np.concatenate([head, latest, np.array(sizes, np.int64), *arrays]))
        return messages
