"""Watching the watermark: where it stands still while records come, somebody is told. It decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Lane

log = logging.getLogger(__name__)

STALL_S = 30.0  # of wall time that the watermark may stand while records come


class Watch:
    """Owned by one `StepReader`; the times are wall time in seconds."""

    def __init__(self) -> None:
        self._watermark_ms: int | None = None
        self._since: float | None = None  # when the first record came that did not move the watermark
        self._records = 0
        self._told = False

    def look(self, lanes: Sequence[Lane], entry: StepEntry, records: int, now: float) -> None:
        """A step of ``records`` records has run."""
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
