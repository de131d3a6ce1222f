"""A step's look-ups and samples in their one order, cut into stretches that a table can take in two calls.

A look-up must find what the samples before it left, and nothing of those after it. Ids do not disturb each other's
rows, so look-ups may be taken before samples of *other* ids: a stretch ends only where an id is looked up that the
stretch has shown already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.tables.batch import TableBatch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stretch:
    """First all look-ups, then all occurrences in samples."""

    looked_up: Ints  # (n,) ids
    ids: Ints  # (m,)
    times_ms: Ints  # (m,)


def stretches(events: TableBatch, before: Sequence[int], samples: TableBatch, times_ms: Ints) -> Iterator[Stretch]:
    """The stretches of one step.

    ``before`` has, for each event, how many of the step's samples were made before it, ascending; ``times_ms`` the
    event time of each sample.
    """
    looked_up, by_event = _by_row(events)
    ids, by_sample = _by_row(samples)
    times = times_ms[by_sample]
    at = np.array(before, np.int64)[by_event].tolist()  # of each look-up: so many samples come before it
    samples_of, keys = by_sample.tolist(), ids.tolist()
    shown: set[int] = set()  # by this stretch, among what comes before the look-up at hand
    look_from = id_from = next_id = 0
    for number, (limit, key) in enumerate(zip(at, looked_up.tolist(), strict=True)):
        while next_id < len(keys) and samples_of[next_id] < limit:
            shown.add(keys[next_id])
            next_id += 1
        if key in shown:
            yield Stretch(looked_up[look_from:number], ids[id_from:next_id], times[id_from:next_id])
            look_from, id_from = number, next_id
            shown.clear()
    yield Stretch(looked_up[look_from:], ids[id_from:], times[id_from:])


def _by_row(batch: TableBatch) -> tuple[Ints, Ints]:
    """The ids (n,) of all features row by row, and the row of each."""
    rows = np.concatenate([np.repeat(np.arange(len(bag.lengths)), bag.lengths) for bag in batch.bags])
    order = np.argsort(rows, kind="stable")
    return batch.ids[order], rows[order]
