"""A lane's clock: how far its records have come in event time, whatever a few of them say.

The clock is the highest time that ``agree`` of the lane's last ``2 * agree - 1`` records have reached; it never goes
back. So as long as fewer than ``agree`` of any ``2 * agree - 1`` records in a row have a wrong time, the clock is never
ahead of the right ones, and it is behind the newest of them by at most ``2 * (agree - 1)`` records. A stream that
really jumps is followed as soon as ``agree`` of its records have jumped. ``agree`` = 1 is the plain maximum.

The clock is a function of the lane's records alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain

from monolith.events import WATERMARK_START


def end_of(times_ms: Iterable[int], max_jump_ms: int) -> int:
    """How far a stream came that ended before it had a clock: the newest time within ``max_jump_ms`` of the median.

    WATERMARK_START if there were no times.
    """
    ordered = sorted(times_ms)
    if not ordered:
        return WATERMARK_START
    median_ms = ordered[(len(ordered) - 1) // 2]
    return max(time_ms for time_ms in ordered if time_ms <= median_ms + max_jump_ms)


class LaneClock:
    """``ms``: the clock, WATERMARK_START before ``agree`` records. ``recent``: the times that it is told from."""

    __slots__ = ("ms", "recent")

    def __init__(self, ms: int = WATERMARK_START, recent: Iterable[int] = ()) -> None:
        self.ms = ms
        self.recent = deque(recent)

    @property
    def known(self) -> bool:
        """Whether there is a clock yet."""
        return self.ms != WATERMARK_START

    def push(self, time_ms: int, agree: int) -> None:
        """One more record. ``agree`` may differ from call to call: records of an older journal were read with 1."""
        recent = self.recent
        recent.append(time_ms)
        while len(recent) > 2 * agree - 1:
            recent.popleft()
        if time_ms > self.ms and len(recent) >= agree:  # else the clock cannot have moved
            self.ms = max(self.ms, sorted(recent)[-agree])

    def after(self, times_ms: Iterable[int], agree: int) -> int:
        """A time that the clock will have reached after ``times_ms``, which is all of it where they are in order."""
        recent = deque(chain(self.recent, times_ms), 2 * agree - 1)
        return max(self.ms, sorted(recent)[-agree]) if len(recent) >= agree else self.ms
