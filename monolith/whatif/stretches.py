"""A step's look-ups and samples in their one order, cut into stretches that a table can take in three calls.

A look-up must find what the samples before it left, and nothing of those after it. Ids do not disturb each other's
rows, so look-ups may be taken before samples of *other* ids: a stretch ends only where an id is looked up that the
stretch has shown already, and where its clock, which stands at its first look-up, would be too far behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.tables.batch import TableBatch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """What a step's events look up, in order."""

    batch: TableBatch
    times_ms: Ints  # of each event, never falling
    before: Ints  # of each event: how many of the step's samples were made before it


@dataclass(frozen=True)
class Stretch:
    """First the clock, then all look-ups, then whole samples, feature by feature as in training."""

    clock_ms: int | None  # None: nothing is looked up
    looked_up: Ints  # (n,) ids
    ids: Ints  # (m,)
    times_ms: Ints  # (m,)


def stretches(events: Events, samples: TableBatch, times_ms: Ints, longest_ms: float) -> Iterator[Stretch]:
    """The stretches of one step.

    ``times_ms`` has the event time of each sample; ``longest_ms`` is how far a look-up may be ahead of the clock.
    """
    looked_up, by_event = _by_row(events.batch)
    clocks = events.times_ms[by_event]
    columns = _Columns(samples, times_ms)
    look_from = sample_from = 0
    ends = _ends(looked_up, events.before[by_event], clocks, samples, longest_ms)
    for look_to, sample_to in (*ends, (len(looked_up), len(times_ms))):
        clock_ms = int(clocks[look_from]) if look_from < look_to else None
        yield Stretch(clock_ms, looked_up[look_from:look_to], *columns.part(sample_from, sample_to))
        look_from, sample_from = look_to, sample_to


def _ends(
    looked_up: Ints, before: Ints, clocks: Ints, samples: TableBatch, longest_ms: float
) -> Iterator[tuple[int, int]]:
    """Where all stretches but the last end, in look-ups and in samples."""
    ids, by_sample = _by_row(samples)
    keys, sample_of = ids.tolist(), by_sample.tolist()
    shown: set[int] = set()  # by this stretch, among what comes before the look-up at hand
    started_ms, taken = None, 0
    for number, (key, limit, clock_ms) in enumerate(
        zip(looked_up.tolist(), before.tolist(), clocks.tolist(), strict=True)
    ):
        while taken < len(keys) and sample_of[taken] < limit:
            shown.add(keys[taken])
            taken += 1
        started_ms = clock_ms if started_ms is None else started_ms
        if key in shown or clock_ms - started_ms > longest_ms:
            yield number, limit
            started_ms = clock_ms
            shown.clear()


class _Columns:
    """The occurrences of a batch by feature, to be cut at any two samples."""

    def __init__(self, batch: TableBatch, times_ms: Ints) -> None:
        ends = np.cumsum([len(bag.ids) for bag in batch.bags])
        self._ids = np.split(batch.ids, ends[:-1])
        self._times = [np.repeat(times_ms, bag.lengths) for bag in batch.bags]
        self._starts = [np.concatenate(([0], np.cumsum(bag.lengths))).tolist() for bag in batch.bags]

    def part(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Ids and times (m,) of the samples from ``start`` up to ``stop``."""
        cuts = [slice(starts[start], starts[stop]) for starts in self._starts]
        if len(cuts) == 1:
            return self._ids[0][cuts[0]], self._times[0][cuts[0]]
        return (
            np.concatenate([ids[cut] for ids, cut in zip(self._ids, cuts, strict=True)]),
            np.concatenate([times[cut] for times, cut in zip(self._times, cuts, strict=True)]),
        )


def _by_row(batch: TableBatch) -> tuple[Ints, Ints]:
    """The ids (n,) of all features row by row, and the row of each."""
    rows = np.concatenate([np.repeat(np.arange(len(bag.lengths)), bag.lengths) for bag in batch.bags])
    order = np.argsort(rows, kind="stable")
    return batch.ids[order], rows[order]
