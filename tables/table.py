"""The collisionless table: every id its own row, which comes by admission, learns by an optimizer, and goes by expiry
or eviction.

What a call does is a function of the table's state and its arguments: neither wall time nor threads nor memory layout
nor a save and open in between change a bit. Any method may be called from any thread; the GIL is released meanwhile.
Calls that change the table come one at a time. Look-ups run beside them, see every row whole, and wait for one short
turn at most; the rows of one look-up may be from before and after a call that ran beside it.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.optimizer_rules import largest_gradient
from monolith.config.table import TableConfig
from monolith.errors import GapError, InputError, NonFiniteError
from monolith.events import WATERMARK_END
from monolith.tables import _core, eviction, saved, snapshot
from monolith.tables.arguments import (
    EventTimes,
    Ids,
    Matrix,
    checked_count,
    checked_ids,
    checked_matrix,
    checked_time,
    checked_times,
)
from monolith.tables.buckets import ALL_BUCKETS, BUCKETS, Buckets
from monolith.tables.collisionless import Collisionless
from monolith.tables.delta import Delta
from monolith.tables.feature_runs import FeatureRuns, Policies
from monolith.tables.optimizer_options import with_steps
from monolith.tables.options import LEAST_TOMBSTONES, checked, native_table
from monolith.tables.outputs import empty_matrix
from monolith.tables.stats import HAPPENED, HELD, TableStats
from monolith.tables.tail import checked_tail

_MAX_SEQUENCE = 2**32 - 2


class Table(Collisionless):
    """A table of ``config.dim`` float32 values a row. Raises ConfigError for a config that cannot be.

    For deltas it remembers the ids whose rows went, in the last 4,096 sequences and of at most one for every other row,
    or ``tombstones`` where that is more; beyond it forgets the oldest sequences, and a delta from before them is a
    GapError. With None it remembers no id: of a replica that nobody asks for deltas.

    ``buckets`` says which of the table's buckets this object has, where several divide a table between them. Each is
    then given ids of its own buckets only (``monolith.tables.split``), and limits of rows, counters and tombstones hold
    for each by itself.
    """

    def __init__(
        self, config: TableConfig, *, tombstones: int | None = LEAST_TOMBSTONES, buckets: Buckets = ALL_BUCKETS
    ) -> None:
        self.config = with_steps(checked(config), "table")
        if not buckets.ranges:
            raise InputError(f"table {config.name!r} is to have no bucket; give it at least one")
        self.buckets = buckets
        if tombstones is not None:
            checked_count(tombstones, 0, 2**40, "tombstones")
        # Of this package only.
        self.native = native_table(self.config, tombstones=tombstones)
        self.policies = Policies(self.config)
        self.writer = threading.RLock()  # for what takes several native calls; each of those is safe by itself
        self._spare_steps: list[_core.Step] = []  # their memory serves later steps

    @property
    def dim(self) -> int:
        """Values a row."""
        return self.config.dim

    @property
    def sequence(self) -> int:
        """The number that the next ``cut`` will close; 1 at first. A replica holds everything up to it, exclusive."""
        return self.native.clockwork().sequence

    @property
    def clock_ms(self) -> int:
        """The table's clock in event time; WATERMARK_START before the first event. It never goes back."""
        return self.native.clockwork().clock_ms

    @property
    def largest_gradient(self) -> float:
        """The largest size in a gradient that the optimizer bears; what is above meets ``on_nonfinite``."""
        return largest_gradient(self.config)

    def __len__(self) -> int:
        """Rows held, those that expired and were not swept yet included."""
        return self.native.sizes().rows

    def observe(self, ids: Ids, *, event_time_ms: EventTimes = None, feature: FeatureRuns = None) -> None:
        """Count, admit and refresh: the first thing a training step does with its ids (n,) int64.

        ``event_time_ms`` is one time, one for each id (n,) int64, or None: the clock stands, and it is the time. The
        clock goes to the latest of the times first. Then, id by id: an expired row is removed, so its id is new; an id
        without a row is counted and, if the admission rule says so, gets a fresh one, unless the event is older than
        a time to live; a row's last-seen time goes up to the event's. Only new rows count as written. Then rows are
        evicted until the table is within its limit, but none of these ids: a table that holds no others may exceed it.

        ``feature`` says by whose rules: one feature's, runs of ``(feature, number of ids)``, or None: the table's own.
        Raises InputError before anything is changed, and whatever a score function of one's own raises after that.
        """
        ids = checked_ids(ids)
        times = checked_times(event_time_ms, len(ids))
        runs = self.policies.runs(feature, len(ids))
        if len(ids):
            with self.writer:
                self.native.observe(ids, times, *runs)

    def lookup(self, ids: Ids, *, out: Matrix | None = None) -> Matrix:
        """The rows of ``ids`` (n,) int64 as (n, dim) float32. Read only.

        An id that is absent or expired reads zeros, or with ``absent: hashed_tail`` its shared row.

        ``out``, a writable contiguous (n, dim) float32 array, is filled and returned instead of a new one. Raises
        InputError.
        """
        ids = checked_ids(ids)
        out = self._out(out, len(ids))
        self.native.lookup(ids, out)
        return out

    def contains(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """(n,) whether each of ``ids`` (n,) int64 has a row of its own that has not expired. Read only."""
        ids = checked_ids(ids)
        found = np.empty(len(ids), np.bool_)
        self.native.contains(ids, found)
        return found

    def apply_gradients(self, ids: Ids, grads: Matrix, *, event_time_ms: EventTimes = None) -> None:
        """One optimizer step for each unique id, on the sum of its gradients in order of occurrence.

        ``ids`` is (n,) int64, ``grads`` (n, dim) float32. Ids without a row train the one that they share, if there is
        a tail; else they are dropped, and counted. With ``event_time_ms`` (one time, or one an id) the rows' last-seen
        times go up to it; the clock stands. NaN, infinity and sizes above ``largest_gradient``, in a gradient or a sum,
        meet the policy ``on_nonfinite``. Raises InputError, or NonFiniteError where that policy is ``raise``, before
        anything is changed.
        """
        ids = checked_ids(ids)
        grads = checked_matrix(grads, len(ids), self.dim, "grads")
        times = checked_times(event_time_ms, len(ids))
        with self.writer:
            bad = self.native.apply_gradients(ids, grads, times)
        if bad >= 0:
            raise NonFiniteError(self._nonfinite_text(int(bad), ids, grads))

    def step(
        self,
        ids: Ids,
        *,
        event_time_ms: EventTimes = None,
        feature: FeatureRuns = None,
        out: Matrix | None = None,
    ) -> TrainingStep:
        """``observe`` and ``lookup`` in one pass; the result's ``apply_gradients`` need not look for the rows again.

        Bit for bit what the three calls give, with ids hashed and looked for once. Arguments and errors are theirs.
        """
        ids = checked_ids(ids)
        times = checked_times(event_time_ms, len(ids))
        runs = self.policies.runs(feature, len(ids))
        out = self._out(out, len(ids))
        found = _taken(self._spare_steps)
        with self.writer:
            self.native.forward(ids, times, found, out, *runs)
        return TrainingStep(self, ids, out, found)

    def advance(self, watermark_ms: int) -> None:
        """Move the clock up to ``watermark_ms``; it never goes back. Rows expire by it, at once for look-ups.

        WATERMARK_END leaves it standing: that a bounded stream has ended says nothing about the time.
        """
        if watermark_ms != WATERMARK_END and watermark_ms > -(2**63):
            with self.writer:
                self.native.advance(checked_time(watermark_ms, "watermark_ms"))

    def sweep(self, buckets: int = BUCKETS, *, max_rows: int = 2**63 - 1) -> int:
        """Remove expired rows, and counters that decayed to nothing, as far as ``buckets`` of the 1,024 buckets reach.

        The next sweep goes on where this one ended. It ends behind the ``max_rows``-th row or counter that it looked
        at, if it gets there: bounded work, whatever the size of the table. (Rows are looked at where a rule lets them
        expire, counters where they have a half-life.) Each row that went makes a tombstone, which the next delta
        carries. Returns how many rows went.
        """
        with self.writer:
            removed, _ = self.native.sweep(
                checked_count(buckets, 0, BUCKETS, "buckets"),
                checked_count(max_rows, 1, 2**63 - 1, "max_rows"),
            )
        return removed

    def cut(self) -> int:
        """Close the current sequence and return its number. Tombstones from 4,096 sequences before it are forgotten."""
        with self.writer:
            checked_count(self.sequence, 1, _MAX_SEQUENCE, "sequence")
            return self.native.cut()

    def delta(self, since: int, *, buckets: Buckets | None = None) -> Delta:
        """Everything written or removed after sequence ``since``, with values as they are now; 0 is the full image.

        With ``buckets``, only what lies in those: ``monolith.tables.delta.joined`` puts such parts together.

        Its ``sequence`` is the one closed last. Rows that expired and were not swept yet are in it, their tombstones
        follow with the sweep: so what a replica holds depends on its sequence alone, whichever deltas it came by. It
        costs by the rows written if ``since`` is the sequence closed last or the one before, else a look through the
        table. Raises GapError where the tombstones since then are no longer all known (the image is always there), and
        InputError for a ``since`` that was not closed yet, or for buckets that the table does not have.
        """
        buckets = self._own(buckets)
        with self.writer:
            now = self.native.clockwork()
            since = checked_count(since, 0, now.sequence - 1, "since")
            if 0 < since < now.floor:
                raise GapError(
                    f"table {self.config.name!r}: ids removed since sequence {since} are known only from {now.floor} "
                    f"on: take the full image, delta(0)"
                )
            ids, values, removed = self.native.delta(since, buckets.mask())
            tail = self._tail_delta(since, now.sequence - 1, buckets)
        return Delta(since, now.sequence - 1, ids, values.reshape(-1, self.dim), removed, tail, buckets)

    def _tail_delta(self, since: int, sequence: int, buckets: Buckets) -> Delta | None:
        if not self.config.tail_rows:
            return None
        numbers, values = self.native.tail_delta(since, buckets.mask())
        return Delta(since, sequence, numbers, values.reshape(-1, self.dim), np.zeros(0, np.int64), None, buckets)

    def _own(self, buckets: Buckets | None) -> Buckets:
        if buckets is None:
            return self.buckets
        if not buckets.ranges or (buckets - self.buckets).ranges:
            raise InputError(f"table {self.config.name!r} has {self.buckets}, not {buckets}: ask for some that it has")
        return buckets

    def apply(self, delta: Delta) -> None:
        """Bring a replica's table to ``delta.sequence``: rows as given, removed ids gone; base 0 replaces everything.

        A delta that is held already changes nothing. Only values travel: optimizer states start afresh, last-seen
        times are the clock's, and counters of an image's receiver go. Raises GapError if something between is missing,
        InputError for arrays that do not fit, before anything is changed.
        """
        ids, removed = checked_ids(delta.ids), checked_ids(delta.removed, "removed")
        values = checked_matrix(delta.values, len(ids), self.dim, "values")
        checked_count(delta.sequence, 0, _MAX_SEQUENCE, "sequence")
        checked_count(delta.base_sequence, 0, delta.sequence, "base_sequence")
        if delta.sequence == 0 and len(ids):
            raise InputError(f"the delta holds {len(ids)} rows of no closed sequence: cut() the table before delta()")
        if delta.buckets != self.buckets:
            raise InputError(
                f"the delta is of {delta.buckets}, table {self.config.name!r} has {self.buckets}: join the parts of a "
                f"delta (monolith.tables.delta.joined) before it is applied"
            )
        tail = checked_tail(self.config, delta)
        with self.writer:
            held = self.sequence - 1
            if tail is not None and (delta.base_sequence == 0 or delta.base_sequence <= held < delta.sequence):
                self.native.write_tail(max(1, delta.sequence), *tail)
            if delta.base_sequence == 0:
                self.native.apply_image(delta.sequence, ids, values)
            elif delta.base_sequence > held:
                raise GapError(
                    f"table {self.config.name!r} holds sequence {held}, the delta follows on {delta.base_sequence}: "
                    f"apply what is between, or a full image"
                )
            elif delta.sequence > held:
                self.native.apply_delta(delta.sequence, ids, values, removed)

    def tail(self) -> Matrix:
        """The rows that absent ids share, (tail rows, dim)."""
        return self.native.tail_delta(0, ALL_BUCKETS.mask())[1].reshape(-1, self.dim)

    def rows(self) -> tuple[Ids, Matrix]:
        """All rows that are not expired: ids (n,) ascending, and values (n, dim)."""
        ids, values = self.native.live_rows()
        return ids, values.reshape(-1, self.dim)

    def stats(self) -> TableStats:
        """What the table holds, what that takes, and what has happened to it."""
        with self.writer:
            happened, sizes = self.native.statistics(), self.native.sizes()
        counts = {name: getattr(happened, name) for name in HAPPENED}
        held = {name: getattr(sizes, name) for name in HELD}
        if not self.buckets.all:  # a part has all shared rows, and owns those of its buckets
            held["tail_rows"] = int(self.buckets.mask()[np.arange(held["tail_rows"]) % BUCKETS].sum())
        return TableStats(**counts, **held)

    def save(self, folder: str | os.PathLike[str], *, buckets: Buckets | None = None) -> Path:
        """Write the whole state to ``folder/table.bin``, fsynced, and return that path. Raises OSError.

        With ``buckets``, only those: files that have the others, saved before the table changes, make it whole again.
        Equal states give equal bytes. Other writers wait meanwhile; look-ups do not. Raises InputError for buckets that
        the table does not have, and for rows outside of those that it has.
        """
        buckets = self._own(buckets)
        with self.writer:
            return snapshot.write(Path(folder), saved.header_of(self, buckets), saved.exported(self, buckets))

    @classmethod
    def open(
        cls,
        folder: saved.Folders,
        config: TableConfig | None = None,
        *,
        tombstones: int | None = LEAST_TOMBSTONES,
        buckets: Buckets = ALL_BUCKETS,
    ) -> Table:
        """The table that was saved in ``folder``, or in several, under its own config or a changed one.

        With ``buckets``, the part of it that has those, however the files divide it; ``monolith.tables.saved`` says
        what becomes of clocks and counts. Raises ConfigError if ``config`` has another name, dim, seed, sharing of ids
        or optimizer kind, if there is no table, if files overlap, lack a bucket or are not of one table at one moment,
        or if the file's own config names a score function that this process has not registered; CorruptError or
        VersionError, naming file and place, for bytes that fail a check.
        """
        with saved.opened(folder, buckets) as files:
            if config is None:
                own = files.config()
                eviction.check_registered(own.eviction, files.where)
            else:
                own = with_steps(config, "table", files.check(config))
            table = cls(own, tombstones=tombstones, buckets=buckets)
            files.restore(table)
        return table

    @classmethod
    def open_to_read(cls, folder: saved.Folders) -> Table:
        """The table that was saved in ``folder``, or in several, without its limit: for reading rows and counts.

        No score function is needed, whatever the file names. Do not train or save the table: rows would not be
        evicted. Raises ConfigError, CorruptError and VersionError as ``open`` does.
        """
        with saved.opened(folder) as files:
            table = cls(msgspec.structs.replace(files.config(), eviction=eviction.Unlimited()))
            files.restore(table)
        return table

    def _out(self, out: Matrix | None, n: int) -> Matrix:
        if out is None:
            return empty_matrix(n, self.dim)
        if checked_matrix(out, n, self.dim, "out") is not out or not out.flags.writeable:
            raise InputError("out must be contiguous and writable: pass a fresh numpy array")
        return out

    def _nonfinite_text(self, position: int, ids: Ids, grads: Matrix) -> str:
        largest = self.largest_gradient
        columns = np.flatnonzero(~(np.abs(grads[position]) <= largest))
        what = (
            f"column {columns[0]} is {grads[position, columns[0]]}, allowed is up to {largest:g}"
            if columns.size
            else f"the sum with its repeats overflows {largest:g}"
        )
        return (
            f"table {self.config.name!r}: the gradient at position {position}, of id {ids[position]}: {what}. Nothing "
            f"was changed. Look for the cause in the loss, or set on_nonfinite to skip_row or clip"
        )


class TrainingStep:
    """A training step that was begun with ``Table.step``: its rows as read, waiting for their gradients.

    Other calls may come between. May be used from any thread, one at a time.
    """

    def __init__(self, table: Table, ids: Ids, values: Matrix, found: _core.Step) -> None:
        self.table = table
        self.ids = ids
        self.values = values  # (n, dim) float32
        self._found = found

    def apply_gradients(self, grads: Matrix, *, event_time_ms: EventTimes = None) -> None:
        """``table.apply_gradients`` of the step's ids as they were when it began; the same errors."""
        table = self.table
        grads = checked_matrix(grads, len(self.values), table.dim, "grads")
        times = checked_times(event_time_ms, len(self.values))
        with table.writer:
            bad = table.native.backward(self._found, grads, times)
        if bad >= 0:
            raise NonFiniteError(table._nonfinite_text(int(bad), self.ids, grads))

    def __del__(self) -> None:
        if len(self.table._spare_steps) < _SPARE_STEPS:
            self.table._spare_steps.append(self._found)


_SPARE_STEPS = 4


def _taken(spare: list[_core.Step]) -> _core.Step:
    try:
        return spare.pop()
    except IndexError:
        return _core.Step()
