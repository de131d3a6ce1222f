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

import numpy as np

from monolith.events import WATERMARK_START
from monolith.tables.batch import Ints

_WIDEST = 63  # records that a clock looks at, up to which many are looked at together: that takes memory for each


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

    def push_all(self, times_ms: Ints, agree: int) -> Ints:
        """``push`` of each of ``times_ms`` (n,) in turn; what the clock was after each, (n,)."""
        if not len(times_ms):
            return times_ms
        clocks_ms = self.after_each(times_ms, agree)
        if clocks_ms is None:
            return np.array([self._pushed(time_ms, agree) for time_ms in times_ms.tolist()], np.int64)
        self.move(times_ms, clocks_ms, agree)
        return clocks_ms

    def move(self, times_ms: Ints, clocks_ms: Ints, agree: int) -> None:
        """Be as after ``push`` of each of ``times_ms``, of which ``clocks_ms`` is what `after_each` says."""
        width = 2 * agree - 1
        self.recent = deque(chain(self.recent, times_ms[-width:].tolist()), width)
        self.ms = int(clocks_ms[-1])

    def _pushed(self, time_ms: int, agree: int) -> int:
        self.push(time_ms, agree)
        return self.ms

    def after_each(self, times_ms: Ints, agree: int) -> Ints | None:
        """What the clock would be after each of ``times_ms`` (n,), at least one, were they pushed.

        None where only one by one can tell: many agree, or another number did before.
        """
        width = 2 * agree - 1
        if width > _WIDEST:
            return None
        recent = list(self.recent)[len(self.recent) - min(width - 1, len(self.recent)) :]
        padding = [WATERMARK_START] * (width - 1 - len(recent))
        padded = np.concatenate([np.array([*padding, *recent], np.int64), times_ms])
        if (padded[:-1] <= padded[1:]).all():  # as in sorted files
            reached = padded[agree - 1 : agree - 1 + len(times_ms)]
        else:
            windows = np.lib.stride_tricks.sliding_window_view(padded, width)
            reached = np.partition(windows, agree - 1, axis=1)[:, agree - 1]
        clocks_ms = np.maximum.accumulate(np.maximum(reached, self.ms))
        before_ms = np.concatenate([[self.ms], clocks_ms[:-1]])
        moves = clocks_ms > before_ms
        return clocks_ms if (times_ms[moves] > before_ms[moves]).all() else None

    def after(self, times_ms: Iterable[int], agree: int) -> int:
        """A time that the clock will have reached after ``times_ms``, which is all of it where they are in order."""
        recent = deque(chain(self.recent, times_ms), 2 * agree - 1)
        return max(self.ms, sorted(recent)[-agree]) if len(recent) >= agree else self.ms
