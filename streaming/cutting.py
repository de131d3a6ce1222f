"""How a live step is cut: which ready records go into it, and how far the watermark moves.

Both look at a moment and are not reproducible; what they decide is written to the journal, and only that is acted on.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.lanes import Lane


class Cut:
    """Counts and clocks as they would be after the step."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self.counts = dict.fromkeys(lanes, 0)
        self.clocks = {lane: lane.clock_ms for lane in lanes}
        self.records = 0

    def take(self, lane: Lane) -> None:
        """One more record of ``lane``."""
        self.clocks[lane] = max(self.clocks[lane], lane.ready[self.counts[lane]].time_ms)
        self.counts[lane] += 1
        self.records += 1

    def end(self, lane: Lane) -> int:
        """Where ``lane`` stands after the step."""
        return lane.end_after(self.counts[lane])

    def done(self, lane: Lane) -> bool:
        """Whether ``lane`` has ended after the step."""
        return lane.stop is not None and self.end(lane) >= lane.stop


def cut_oldest(lanes: Sequence[Lane], most: int) -> Cut:
    """Up to ``most`` records, the oldest event times first, so that the lanes stay together in event time."""
    cut = Cut(lanes)
    limits = [lane.takeable() for lane in lanes]
    heads = [(lane.ready[0].time_ms, i) for i, lane in enumerate(lanes) if limits[i]]
    heapq.heapify(heads)
    while heads and cut.records < most:
        _, i = heads[0]
        lane = lanes[i]
        cut.take(lane)
        if cut.counts[lane] < limits[i]:
            heapq.heapreplace(heads, (lane.ready[cut.counts[lane]].time_ms, i))
        else:
            heapq.heappop(heads)
    return cut


def cut_slowest(lanes: Sequence[Lane], most: int, idle: Collection[Lane]) -> Cut:
    """Up to ``most`` records, but only of the lanes that hold the watermark: the others have run ahead far enough."""
    cut = Cut(lanes)
    limits = {lane: lane.takeable() for lane in lanes}
    while cut.records < most:
        holding = [lane for lane in lanes if lane not in idle and not cut.done(lane)]
        slowest = min(holding, key=lambda lane: cut.clocks[lane], default=None)
        if slowest is None or cut.counts[slowest] >= limits[slowest]:
            break
        cut.take(slowest)
    return cut


def watermark_after(cut: Cut, idle: Collection[Lane], out_of_order_ms: int, before_ms: int) -> int:
    """Up to which event time everything has been seen after ``cut``; never less than ``before_ms``.

    The lanes that are neither idle nor at their end hold it: another record of theirs may be as old as the newest,
    less ``out_of_order_ms``. Where none holds it, it is the newest event time of all; where all have ended,
    WATERMARK_END.
    """
    if cut.lanes and all(cut.done(lane) for lane in cut.lanes):
        return WATERMARK_END
    holding = [cut.clocks[lane] for lane in cut.lanes if lane not in idle and not cut.done(lane)]
    if not holding:
        return max(before_ms, *cut.clocks.values())
    slowest = min(holding)
    return before_ms if slowest == WATERMARK_START else max(before_ms, slowest - out_of_order_ms - 1)
