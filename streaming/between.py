"""The part of a stream between two times, as offsets: found by bisection, as records come in order of time, nearly.

A partition's records may be out of order by `input.max_out_of_order_s`; as many of them may stand on the wrong side of
a bound.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from monolith.errors import UnavailableError
from monolith.streaming.codec import decode
from monolith.streaming.source import Source

ANSWER_S = 10.0  # for one record
Offsets = Mapping[int, int]  # by partition


@dataclass(frozen=True, slots=True)
class Between:
    """Times in ms: records from ``from_ms`` on, and before ``until_ms``; None: there is no such bound."""

    from_ms: int | None = None
    until_ms: int | None = None


def offsets_between(source: Source, between: Between) -> tuple[Offsets, Offsets]:
    """Where the part begins and where it ends, by partition; the source stands at the beginnings afterwards."""
    deadline = time.monotonic() + ANSWER_S
    while not source.partitions():
        if time.monotonic() >= deadline:
            raise UnavailableError(f"{source.name} does not answer: {source.missing or 'it has no partition'}")
        time.sleep(0.1)
    begins, ends = source.position(), source.end_position()
    first = {p: _first_from(source, p, begins[p], ends[p], between.from_ms, begins[p]) for p in begins}
    last = {p: _first_from(source, p, first[p], ends[p], between.until_ms, ends[p]) for p in begins}
    source.seek(first)
    return first, last


def _first_from(source: Source, partition: int, low: int, high: int, time_ms: int | None, unbound: int) -> int:
    """The first offset from ``low`` on whose record is of ``time_ms`` or later; ``high`` where there is none."""
    if time_ms is None:
        return unbound
    while low < high:
        middle = (low + high) // 2
        found = _next_dated(source, partition, middle, high)
        if found is None or found[1] >= time_ms:
            high = middle
        else:
            low = found[0] + 1
    return low


def _next_dated(source: Source, partition: int, offset: int, end: int) -> tuple[int, int] | None:
    """Offset and event time of the first record at ``offset`` or behind it that has one, before ``end``."""
    while offset < end:
        source.seek({partition: offset})
        records = source.poll(1, ANSWER_S, [partition])
        if not records:
            raise UnavailableError(
                f"{source.name}, partition {partition}: no record at offset {offset} in {ANSWER_S:g} s"
            )
        record = records[0]
        if record.offset >= end:
            return None
        try:
            return record.offset, decode(record.value or b"").event_time_ms
        except ValueError:  # no event: look at the next one
            offset = record.offset + 1
    return None
