"""How a live step is cut: which ready records go into it, and how far the watermark moves.

Both look at a moment and are not reproducible; what they decide is written to the journal, and only that is acted on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.lanes import Lane


class Cut:
    """Counts and clocks as they would be after the step."""

    def __init__(self, lanes: Sequence[Lane], agree: int) -> None:
        """``agree``: see `LaneClock`."""
        self.lanes = lanes
        self.counts = dict.fromkeys(lanes, 0)
        self.records = 0
        self._agree = agree

    def take(self, lane: Lane, count: int = 1) -> None:
        """So many more records of ``lane``."""
        self.counts[lane] += count
        self.records += count

    def clock_ms(self, lane: Lane) -> int:
        """A time that the clock of ``lane`` will have reached."""
        newest: list[int] = []
        for i in range(self.counts[lane] - 1, -1, -1):
            time_ms = lane.ready.time_ms(i)
            if time_ms != WATERMARK_START:
                newest.append(time_ms)
            if len(newest) == 2 * self._agree - 1:
                break
        return lane.clock.after(reversed(newest), self._agree)

    def end(self, lane: Lane) -> int:
        """Where ``lane`` stands after the step."""
        return lane.end_after(self.counts[lane])

    def done(self, lane: Lane) -> bool:
        """Whether ``lane`` has ended after the step."""
        return lane.stop is not None and self.end(lane) >= lane.stop


def cut_oldest(lanes: Sequence[Lane], most: int, agree: int) -> Cut:
    """Up to ``most`` records, the oldest event times first, so that the lanes stay together in event time.

    A record that is ahead of the newest that its lane has ready keeps those behind it waiting no longer than that one.
    """
    cut = Cut(lanes, agree)
    for lane, count in zip(lanes, _oldest(lanes, [lane.takeable() for lane in lanes], most), strict=True):
        cut.take(lane, count)
    return cut


def _oldest(lanes: Sequence[Lane], limits: Sequence[int], most: int) -> list[int]:
    """How many of each lane's first ``limits`` records are among the ``most`` that a merge by time gives first."""
    if sum(limits) <= most:
        return list(limits)
    turns = []  # what a merge compares: a record can come no sooner than those of its lane that are before it
    for lane, limit in zip(lanes, limits, strict=True):
        newest_ms = lane.ready.time_ms(-1) if lane.ready else WATERMARK_START
        turns.append(np.maximum.accumulate(np.minimum(lane.ready.times_ms(limit), newest_ms)))
    first = np.argsort(np.concatenate(turns), kind="stable")[:most]
    of_lane = np.repeat(np.arange(len(lanes)), limits)
    counts: list[int] = np.bincount(of_lane[first], minlength=len(lanes)).tolist()
    return counts


def cut_slowest(lanes: Sequence[Lane], most: int, idle: Collection[Lane], agree: int) -> Cut:
    """Up to ``most`` records, but only of the lanes that hold the watermark: the others have run ahead far enough."""
    cut = Cut(lanes, agree)
    limits = {lane: lane.takeable() for lane in lanes}
    while cut.records < most:
        holding = [lane for lane in lanes if lane not in idle and not cut.done(lane)]
        slowest = min(holding, key=cut.clock_ms, default=None)
        if slowest is None or cut.counts[slowest] >= limits[slowest]:
            break
        cut.take(slowest)
    return cut


def watermark_after(cut: Cut, idle: Collection[Lane], out_of_order_ms: int, before_ms: int, silent_ms: int = 0) -> int:
    """Up to which event time everything has been seen after ``cut``; never less than ``before_ms``.

    The lanes that are neither idle nor at their end hold it: another record of theirs may be as old as their clock,
    less ``out_of_order_ms``. Where all are silent, for ``silent_ms`` of wall time, those that have a clock hold it, the
    slowest of them as far as it would have come by now, were it live, but no further than the newest clock. Where all
    have ended, WATERMARK_END.
    """
    if cut.lanes and all(cut.done(lane) for lane in cut.lanes):
        return WATERMARK_END
    if is_silent(cut, idle):
        clocks = [lane.clock.ms for lane in cut.lanes if lane.clock.known and not cut.done(lane)]
        slowest = min(min(clocks) + silent_ms, max(clocks)) if clocks else WATERMARK_START
    else:
        clocks = [cut.clock_ms(lane) for lane in cut.lanes if lane not in idle and not cut.done(lane)]
        slowest = min(clocks, default=WATERMARK_START)
    return before_ms if slowest == WATERMARK_START else max(before_ms, slowest - out_of_order_ms - 1)


def is_silent(cut: Cut, idle: Collection[Lane]) -> bool:
    """Whether every lane is idle or at its end."""
    return all(lane in idle or cut.done(lane) for lane in cut.lanes)
