"""Watching clocks: a watermark that stands while records come, and a clock ahead of its records. It decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Lane

log = logging.getLogger(__name__)

STALL_S = 30.0  # of wall time that the watermark may stand while records come
AHEAD_MS = 30_000  # of event time, beyond input.max_out_of_order_s, that a clock may be ahead of its records


class Watch:
    """Owned by one `StepReader`; the times are wall time in seconds."""

    def __init__(self, out_of_order_ms: int) -> None:
        self.ahead = 0  # times that a partition's clock was found ahead of its records
        self._most_ahead_ms = out_of_order_ms + AHEAD_MS
        self._ahead_lanes: set[tuple[str, int]] = set()
        self._watermark_ms: int | None = None
        self._since: float | None = None  # when the first record came that did not move the watermark
        self._records = 0
        self._told = False

    def look(self, lanes: Sequence[Lane], entry: StepEntry, records: int, now: float) -> None:
        """A step of ``records`` records has run."""
        for lane in lanes:
            self._compare(lane, entry.agree)
        if entry.watermark_ms != self._watermark_ms:
            if self._told:
                log.warning("the watermark moves again after_s=%.0f to_ms=%d", self.stalled_s(now), entry.watermark_ms)
            self._watermark_ms, self._since, self._records, self._told = entry.watermark_ms, None, 0, False
            return
        self._records += records
        if records and self._since is None:
            self._since = now
        if records and not self._told and self.stalled_s(now) >= STALL_S:
            self._told = True
            self._tell(lanes, entry, now)

    def _compare(self, lane: Lane, agree: int) -> None:
        """Whether the lane's clock, which never goes back, has left behind what its newest records say."""
        if not lane.in_order or len(lane.clock.recent) < 2 * agree - 1:
            return
        told_ms = sorted(lane.clock.recent)[-agree]
        name = (lane.stream, lane.partition)
        if lane.clock.ms - told_ms <= self._most_ahead_ms:
            self._ahead_lanes.discard(name)
        elif name not in self._ahead_lanes:
            self._ahead_lanes.add(name)
            self.ahead += 1
            log.warning(
                "a partition's clock is ahead of its records at=%s/%d clock_ms=%d records_ms=%d ahead_s=%.0f: %d "
                "records (input.jump_records) agreed on a time that those behind them contradict; labels may be lost "
                "until the records have come so far",
                *(*name, lane.clock.ms, told_ms, (lane.clock.ms - told_ms) / 1000, agree),
            )

    def stalled_s(self, now: float) -> float:
        """For how long records have come and not moved the watermark; 0 where it moves, or nothing comes."""
        return 0.0 if self._since is None else now - self._since

    def _tell(self, lanes: Sequence[Lane], entry: StepEntry, now: float) -> None:
        holding = [lane for lane in lanes if lane.partition not in entry.idle.get(lane.stream, ()) and not lane.done]
        slowest = min(holding or lanes, key=lambda lane: lane.clock.ms)
        log.warning(
            "the watermark stands still while records come for_s=%.0f records=%d watermark_ms=%d held_by=%s/%d "
            "clock_ms=%s newest_ms=%s: that partition's clock goes where %d of its last records are "
            "(input.jump_records); are its event times right, and does it lag behind the others?",
            *(self.stalled_s(now), self._records, entry.watermark_ms, slowest.stream, slowest.partition),
            *(slowest.clock.ms if slowest.clock.known else None, max(slowest.clock.recent, default=None), entry.agree),
        )
