"""The unit of event times: to ms, and a look at whether a number of ms is not rather one of something else.

A moment of our time has 10 digits in seconds, 13 in ms, 16 in us and 19 in ns. So what is called ms and has 9 or 10
digits would be of 1970, and is in seconds; with 15 and more digits it would be of the year 5138 or later, and is in us
or ns. Streams with a time of their own, which begin at 0, pass as long as they begin below 10^8 ms (28 hours).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from monolith.tables.batch import Flags, Ints

TimeUnit = Literal["s", "ms", "us", "ns"]

_PER_UNIT = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}
_SECONDS = range(10**8, 10**10)  # 1973 to 2286 in seconds
_US = range(10**14, 10**17)  # 1973 to 5138 in us
_NS = range(10**17, 2**63)  # 1973 to 2262 in ns


def to_ms(time: int, unit: TimeUnit) -> int:
    """``time``, in ``unit`` since the epoch, in ms, rounded down."""
    up, down = per_unit(unit)
    return time * up // down


def per_unit(unit: TimeUnit) -> tuple[int, int]:
    """What a time in ``unit`` is multiplied by, and then divided by, to be in ms."""
    return _PER_UNIT[unit]


def looks_like_seconds(time_ms: int) -> bool:
    """Whether the number is a date of our time in seconds, and one of 1970 in ms."""
    return time_ms in _SECONDS


FINER_FROM_MS = _US.start  # from here on a number of ms looks like one of us or ns


def looks_finer(time_ms: int) -> bool:
    """Whether the number is a date of our time in us or ns, and none in ms."""
    return time_ms in _US or time_ms in _NS


def look_like_ms(times_ms: Ints) -> Flags:
    """Which of ``times_ms`` (n,), none negative, look neither like seconds nor finer."""
    odd = np.zeros(len(times_ms), np.bool_)
    for unit in (_SECONDS, _US, _NS):
        odd |= (times_ms >= unit.start) & (times_ms <= unit.stop - 1)
    return ~odd


def unit_detail(time_ms: int) -> str:
    """What a number of another unit says of itself, for errors and dead letters."""
    unit = "seconds" if time_ms in _SECONDS else "us" if time_ms in _US else "ns"
    word = {"seconds": "s"}.get(unit, unit)
    return (
        f"the event time {time_ms} is no ms since 1970 of our time, but would be {unit}: set input.time_unit: {word} "
        f"(parquet:// has an option unit={word}), or, if it is meant so, input.check_time_unit: false"
    )
