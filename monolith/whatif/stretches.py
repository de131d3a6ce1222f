"""A step's look-ups and samples in their one order, cut into stretches that a table can take in three calls.

A look-up must find what the samples before it left, and nothing of those after it. Ids do not disturb each other's
rows, so look-ups may be taken before samples of *other* ids: a stretch ends only where an id is looked up that the
stretch has shown already, and after a second of event time, since rows expire by the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.tables.batch import TableBatch

Ints = npt.NDArray[np.int64]


_LONGEST_MS = 1000  # from a stretch's first look-up to its last


@dataclass(frozen=True)
class Events:
    """What a step's events look up, in order."""

    batch: TableBatch
    times_ms: Ints  # of each event, never falling
    before: Ints  # of each event: how many of the step's samples were made before it


@dataclass(frozen=True)
class Stretch:
    """First the clock, then all look-ups, then all occurrences in samples."""

    clock_ms: int | None  # None: nothing is looked up
    looked_up: Ints  # (n,) ids
    ids: Ints  # (m,)
    times_ms: Ints  # (m,)


def stretches(events: Events, samples: TableBatch, times_ms: Ints) -> Iterator[Stretch]:
    """The stretches of one step; ``times_ms`` has the event time of each sample."""
    looked_up, by_event = _by_row(events.batch)
    ids, by_sample = _by_row(samples)
    clocks, times = events.times_ms[by_event], times_ms[by_sample]

    def stretch(looks: slice, shown: slice) -> Stretch:
        clock_ms = int(clocks[looks.start]) if looks.start < looks.stop else None
        return Stretch(clock_ms, looked_up[looks], ids[shown], times[shown])

    look_from = id_from = 0
    for look_to, id_to in _ends(looked_up, events.before[by_event], clocks, ids, by_sample):
        yield stretch(slice(look_from, look_to), slice(id_from, id_to))
        look_from, id_from = look_to, id_to
    yield stretch(slice(look_from, len(looked_up)), slice(id_from, len(ids)))


def _ends(looked_up: Ints, before: Ints, clocks: Ints, ids: Ints, by_sample: Ints) -> Iterator[tuple[int, int]]:
    """Where all stretches but the last end, in look-ups and in occurrences."""
    sample_of, keys = by_sample.tolist(), ids.tolist()
    shown: set[int] = set()  # by this stretch, among what comes before the look-up at hand
    started_ms, id_to = None, 0
    for number, (key, limit, clock_ms) in enumerate(
        zip(looked_up.tolist(), before.tolist(), clocks.tolist(), strict=True)
    ):
        while id_to < len(keys) and sample_of[id_to] < limit:
            shown.add(keys[id_to])
            id_to += 1
        started_ms = clock_ms if started_ms is None else started_ms
        if key in shown or clock_ms - started_ms > _LONGEST_MS:
            yield number, id_to
            started_ms = clock_ms
            shown.clear()


def _by_row(batch: TableBatch) -> tuple[Ints, Ints]:
    """The ids (n,) of all features row by row, and the row of each."""
    rows = np.concatenate([np.repeat(np.arange(len(bag.lengths)), bag.lengths) for bag in batch.bags])
    order = np.argsort(rows, kind="stable")
    return batch.ids[order], rows[order]
