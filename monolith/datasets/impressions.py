"""Impressions and their event streams: what was shown, what was done with it, merged in the order of event time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from monolith.events import ActionEvent, Event, FeatureEvent
from monolith.streaming.codec import encode
from monolith.streaming.source import Sink

BULK = 4096  # events an append when there is no hurry
PACED_S = 0.05  # time between appends when events come at a rate


@dataclass(frozen=True, slots=True)
class Impression:
    """One item shown in one request, and the action it led to, if any."""

    feature: FeatureEvent
    action: ActionEvent | None
    probability: float | None = None  # of an action, where the stream is generated; never part of an event


def timeline(impressions: Iterable[Impression]) -> Iterator[FeatureEvent | ActionEvent]:
    """Feature and action events in order of event time; at equal times features first, then as they came.

    ``impressions`` must be in order of their features' event time. Only actions that are still to come are held.
    """
    waiting: list[tuple[int, int, ActionEvent]] = []
    for number, impression in enumerate(impressions):
        while waiting and waiting[0][0] < impression.feature.event_time_ms:
            yield heapq.heappop(waiting)[2]
        yield impression.feature
        if impression.action is not None:
            heapq.heappush(waiting, (impression.action.event_time_ms, number, impression.action))
    while waiting:
        yield heapq.heappop(waiting)[2]


def write_events(
    events: Iterable[Event],
    features: Sink,
    actions: Sink,
    *,
    per_second: float | None = None,
    on_written: Callable[[int], None] | None = None,
) -> int:
    """Append ``events`` to their sinks in order, keyed by request id, and return how many there were.

    With ``per_second`` they are written at that rate in wall time, in small appends; without it as fast as the sinks
    take them. ``on_written`` is told the number of events after each append.
    """
    size = BULK if per_second is None else max(1, round(per_second * PACED_S))
    source, written, start = iter(events), 0, time.monotonic()
    while batch := list(islice(source, size)):
        if per_second is not None:
            time.sleep(max(0.0, start + written / per_second - time.monotonic()))
        _append(features, [event for event in batch if not isinstance(event, ActionEvent)])
        _append(actions, [event for event in batch if isinstance(event, ActionEvent)])
        written += len(batch)
        if on_written is not None:
            on_written(written)
    return written


def _append(sink: Sink, events: list[Event]) -> None:
    if events:
        sink.append([(event.request_id.encode(), encode(event), event.event_time_ms) for event in events])
