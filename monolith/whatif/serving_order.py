"""A step's look-ups and samples in their one order, for many tables at once, in few calls.

A look-up must find what the samples before it left, and nothing of those after it. Look-ups may all the same be taken
before samples of *other* ids, which do not disturb their rows, and, where an id has a row in every table, before
samples of its own, which leave it the row. So the step is cut into stretches: first look-ups, then samples. One ends
where an id that some table does not hold is looked up after the stretch has shown it, and where its clock, which stands
at its first look-up, would be too far behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monolith.tables.table_step import TableBatch

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Runs = list[tuple[str, int]]  # each feature, and how many ids are of it

_MOST = 128  # look-ups of a stretch


class Server(Protocol):
    """A table as a replica serves it."""

    def look_up(self, ids: Ints, clock_ms: int) -> Flags:
        """Which of ``ids`` (n,) have a row at ``clock_ms``; nothing is counted."""

    def served(self, found: Flags) -> None:
        """Count look-ups (m,) by whether they found a row."""

    def show(self, ids: Ints, times_ms: Ints, runs: Runs) -> None:
        """Observe the ids (k,) of whole samples, feature by feature as in training; ``runs`` says which are whose."""


@dataclass(frozen=True)
class Events:
    """What a step's events look up, in order."""

    batch: TableBatch
    times_ms: Ints  # of each event, never falling
    before: Ints  # of each event: how many of the step's samples were made before it


def serve_in_order(
    events: Events, samples: TableBatch, times_ms: Ints, servers: Sequence[Server], *, longest_ms: float
) -> None:
    """Do what one step brings.

    ``times_ms`` has the event time of each sample; ``longest_ms`` is how far a look-up may be ahead of the clock.
    """
    looked_up, by_event = _by_row(events.batch)
    clocks = events.times_ms[by_event]
    columns = _Columns(samples, times_ms)
    order = _Order(looked_up.tolist(), events.before[by_event].tolist(), clocks.tolist(), samples, longest_ms)
    look, sample = 0, 0
    while look < len(looked_up):
        ids = looked_up[look : look + _MOST]
        found = [server.look_up(ids, int(clocks[look])) for server in servers]
        next_look, next_sample = order.end(look, sample, np.logical_and.reduce(found).tolist())
        shown = columns.part(sample, next_sample)
        for server, flags in zip(servers, found, strict=True):
            server.served(flags[: next_look - look])
            server.show(*shown)
        look, sample = next_look, next_sample
    for server in servers:
        server.show(*columns.part(sample, len(times_ms)))


class _Order:
    """The step as lists: one entry a look-up, and the ids of each sample."""

    def __init__(
        self, looked_up: list[int], before: list[int], clocks: list[int], samples: TableBatch, longest_ms: float
    ) -> None:
        self._looked_up, self._before, self._clocks, self._longest_ms = looked_up, before, clocks, longest_ms
        ids, by_sample = _by_row(samples)
        self._ids = ids.tolist()
        self._starts = np.searchsorted(by_sample, np.arange(len(samples.bags[0].lengths) + 1)).tolist()

    def end(self, look: int, sample: int, held: list[bool]) -> tuple[int, int]:
        """Where the stretch ends that begins at these, in look-ups and samples; ``held``: by every table, (n,)."""
        shown: set[int] = set()
        taken, latest_ms = sample, self._clocks[look] + self._longest_ms
        for number, sure in enumerate(held, start=look):
            if taken < (limit := self._before[number]):
                shown.update(self._ids[self._starts[taken] : self._starts[limit]])
                taken = limit
            if (not sure and self._looked_up[number] in shown) or self._clocks[number] > latest_ms:
                return number, taken
        return look + len(held), taken


class _Columns:
    """The occurrences of a batch by feature, to be cut at any two samples."""

    def __init__(self, batch: TableBatch, times_ms: Ints) -> None:
        ends = np.cumsum([count for _, count in batch.runs])
        self._names = [name for name, _ in batch.runs]
        self._ids = np.split(batch.ids, ends[:-1])
        self._times = [np.repeat(times_ms, bag.lengths) for bag in batch.bags]
        self._starts = [np.concatenate(([0], np.cumsum(bag.lengths))).tolist() for bag in batch.bags]

    def part(self, start: int, stop: int) -> tuple[Ints, Ints, Runs]:
        """Ids and times (m,) of the samples from ``start`` up to ``stop``, and whose they are."""
        cuts = [slice(starts[start], starts[stop]) for starts in self._starts]
        runs = [(name, cut.stop - cut.start) for name, cut in zip(self._names, cuts, strict=True)]
        if len(cuts) == 1:
            return self._ids[0][cuts[0]], self._times[0][cuts[0]], runs
        return (
            np.concatenate([ids[cut] for ids, cut in zip(self._ids, cuts, strict=True)]),
            np.concatenate([times[cut] for times, cut in zip(self._times, cuts, strict=True)]),
            runs,
        )


def _by_row(batch: TableBatch) -> tuple[Ints, Ints]:
    """The ids (n,) of all features row by row, and the row of each."""
    rows = np.concatenate([np.repeat(np.arange(len(bag.lengths)), bag.lengths) for bag in batch.bags])
    order = np.argsort(rows, kind="stable")
    return batch.ids[order], rows[order]
