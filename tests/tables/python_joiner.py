"""The joiner once more, in plain Python objects: what the native one is held to."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from batches import Plain

from monolith.config import JoinConfig
from monolith.events import WATERMARK_END, WATERMARK_START, ActionEvent, Decoded, Joined, Record, Shown
from monolith.streaming.joiner import LateAction, OnShown, draw
from monolith.streaming.joiner_state import JoinCounters

_DEADLINE, _PARKED, _FORGET = 0, 1, 2  # timers of one instant fire in this order, after its records

Key = tuple[str, str]


class Pending(NamedTuple):
    """A record on its way to its order time."""

    order_ms: int
    stream: int
    partition: int
    offset: int
    ingestion_ms: int
    event: Decoded


@dataclass
class Waiting:
    """A key whose features came."""

    event_time_ms: int
    partition: int
    offset: int
    deadline_ms: int
    forget_ms: int
    open: bool
    positive: bool
    row: bytes


@dataclass
class Parked:
    """An action that waits for its features."""

    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int
    expire_ms: int


class PythonJoiner:
    """Of rows of 8 bytes, as `batches.PlainJoiner`."""

    def __init__(self, config: JoinConfig, on_shown: OnShown | None = None) -> None:
        self._on_shown = on_shown
        self._positive = frozenset(config.positive_actions)
        self._window_ms = round(config.window_s * 1000)
        self._early_ms = round(config.early_s * 1000)
        self._dedup_ms = round(config.dedup_s * 1000)
        self._late = config.late_positives
        self._rate = config.negative_rate
        self._keep_below = round(config.negative_rate * 2**64)
        self.counters = JoinCounters()
        self.late_actions: list[LateAction] = []  # with policy dead_letter; whoever takes them clears the list
        self._pending: list[Pending] = []
        self._waiting: dict[Key, Waiting] = {}
        self._parked: dict[Key, Parked] = {}
        self._timers: list[tuple[int, int, int, int, Key]] = []  # (time, kind, partition, offset, key)
        self._samples: list[Plain] = []
        self._newest_ingestion_ms = WATERMARK_START
        self._timed_ms = WATERMARK_END  # the timers up to here have fired before any record behind it is released
        self._newest_ms = WATERMARK_END

    def add(self, record: Record, event: Decoded, stream: int, order_ms: int) -> None:
        """Take one record of stream number ``stream`` that is to be worked off at ``order_ms``."""
        item = Pending(order_ms, stream, record.partition, record.offset, record.ingestion_time_ms, event)
        heapq.heappush(self._pending, item)
        self._newest_ingestion_ms = max(self._newest_ingestion_ms, record.ingestion_time_ms)

    def pending_ms(self) -> int:
        """The order time of the next record that waits; WATERMARK_END if none does."""
        return self._pending[0].order_ms if self._pending else WATERMARK_END

    def due_ms(self) -> int:
        """The watermark from which on `advance` has something to do; WATERMARK_END if nothing waits."""
        return min(self.pending_ms(), self._timers[0][0] if self._timers else WATERMARK_END)

    def advance(
        self, watermark_ms: int, *, released_ms: int = WATERMARK_START, newest_ms: int = WATERMARK_END
    ) -> list[Plain]:
        """Work off everything up to ``watermark_ms`` and return the samples that it makes, in order.

        Records up to ``released_ms`` are then worked off as well, but no timer: no window ends before the watermark.
        No sample is given a later event time than ``newest_ms``, which is what the streams' clocks have reached.
        WATERMARK_END also ends every window and drops what is parked: nothing waits any more.
        """
        self._newest_ms = newest_ms
        if watermark_ms == WATERMARK_END:
            self._timed_ms = newest_ms
            self._work_off(max((item.order_ms for item in self._pending), default=WATERMARK_START))
            self._end_windows()
        else:
            self._work_off(watermark_ms)
            self._timed_ms = watermark_ms
            while self.pending_ms() <= released_ms:
                self._release(heapq.heappop(self._pending))
        self._timed_ms = WATERMARK_END
        samples, self._samples = self._samples, []
        return samples

    def _work_off(self, until_ms: int) -> None:
        """Records and timers up to ``until_ms``, by time; a timer waits for the records of its instant.

        What is remembered for duplicates is forgotten up to ``_timed_ms`` only: a time ahead must not clear it.
        """
        kept: list[tuple[int, int, int, int, Key]] = []
        while self._pending or self._timers:
            record_ms = self._pending[0].order_ms if self._pending else WATERMARK_END
            timer_ms = self._timers[0][0] if self._timers else WATERMARK_END
            if min(record_ms, timer_ms) > until_ms:
                break
            if record_ms <= timer_ms:
                self._release(heapq.heappop(self._pending))
            elif timer_ms > self._timed_ms and self._timers[0][1] == _FORGET:
                kept.append(heapq.heappop(self._timers))
            else:
                self._fire(heapq.heappop(self._timers))
        for timer in kept:
            heapq.heappush(self._timers, timer)

    def _end_windows(self) -> None:
        """Fire the timers of open windows and parked actions, in order, and keep those of the duplicates' memory."""
        timers, self._timers = sorted(self._timers), []
        for timer in timers:
            if timer[1] == _FORGET:
                self._timers.append(timer)
            else:
                self._fire(timer)
        heapq.heapify(self._timers)

    # --- records -----------------------------------------------------------------------------------------------------

    def _release(self, item: Pending) -> None:
        event = item.event
        if item.order_ms > self._timed_ms:
            self._catch_up((event.request_id, event.item_id), item.order_ms)
        if isinstance(event, ActionEvent):
            self._act(item, event)
        elif isinstance(event, Shown):
            self._show(item, event)
        else:
            self.counters.passed += 1
            self._tell(event)
            key = event.request_id, event.item_id
            self._sample(key, event.event_time_ms, item.ingestion_ms, event.row, event.label, event.rate, late=False)

    def _catch_up(self, key: Key, order_ms: int) -> None:
        """Do what timers of ``key`` alone would have done before ``order_ms``, in a place where timers stand still."""
        parked, entry = self._parked.get(key), self._waiting.get(key)
        if parked is not None and parked.expire_ms < order_ms:
            self._unpark(key)
            self.counters.unmatched_actions += 1
        if entry is not None and entry.open and entry.deadline_ms < order_ms:
            self._negative_sample(key, entry)
        if entry is not None and not entry.open and entry.forget_ms < order_ms:
            self._forget(key, entry)

    def _show(self, item: Pending, event: Shown) -> None:
        key = (event.request_id, event.item_id)
        if key in self._waiting:
            self.counters.duplicate_features += 1
            return
        self._tell(event)
        deadline_ms = max(event.event_time_ms + self._window_ms, item.order_ms)
        forget_ms = max(event.event_time_ms + self._dedup_ms, deadline_ms)
        entry = Waiting(
            event.event_time_ms, item.partition, item.offset, deadline_ms, forget_ms, True, False, event.row
        )
        self._waiting[key] = entry
        self._timer(forget_ms, _FORGET, entry, key)
        parked = self._parked.get(key)
        if parked is None:
            self._timer(deadline_ms, _DEADLINE, entry, key)
        else:
            self._unpark(key)
            self._positive_sample(key, entry, item.order_ms, item.ingestion_ms, late=False)

    def _tell(self, event: Shown | Joined) -> None:
        if self._on_shown is not None:
            time_ms = min(event.event_time_ms, self._newest_ms)
            self._on_shown(len(self._samples), Shown(event.request_id, event.item_id, time_ms, event.row))

    def _act(self, item: Pending, event: ActionEvent) -> None:
        if self._positive and event.action not in self._positive:
            self.counters.ignored_actions += 1
            return
        key = (event.request_id, event.item_id)
        entry = self._waiting.get(key)
        if entry is None:
            self._park(key, item, event)
        elif entry.positive:
            self.counters.duplicate_actions += 1
        elif entry.open:
            self._positive_sample(key, entry, item.order_ms, item.ingestion_ms, late=False)
        else:
            self._late_positive(key, entry, item, event)

    def _park(self, key: Key, item: Pending, event: ActionEvent) -> None:
        if key in self._parked:
            self.counters.duplicate_actions += 1
            return
        parked = Parked(event, item.ingestion_ms, item.partition, item.offset, item.order_ms + self._early_ms)
        self._parked[key] = parked
        self._timer(parked.expire_ms, _PARKED, parked, key)

    def _late_positive(self, key: Key, entry: Waiting, item: Pending, event: ActionEvent) -> None:
        self.counters.late += 1
        if self._late == "emit":
            self._positive_sample(key, entry, item.order_ms, item.ingestion_ms, late=True)
            return
        entry.positive = True  # a repeat of it is a duplicate
        if self._late == "dead_letter":
            self.late_actions.append(LateAction(event, item.ingestion_ms, item.partition, item.offset))

    # --- samples -----------------------------------------------------------------------------------------------------

    def _positive_sample(self, key: Key, entry: Waiting, order_ms: int, ingestion_ms: int, *, late: bool) -> None:
        self.counters.positives += 1
        self._emit(key, entry, ingestion_ms, label=1.0, late=late)
        entry.open, entry.positive = False, True
        self._drop_row(entry)
        forget_ms = order_ms + self._dedup_ms
        if forget_ms > entry.forget_ms:
            entry.forget_ms = forget_ms
            self._timer(forget_ms, _FORGET, entry, key)

    def _negative_sample(self, key: Key, entry: Waiting) -> None:
        entry.open = False
        if draw(*key) < self._keep_below:
            self.counters.negatives += 1
            self._emit(key, entry, self._newest_ingestion_ms, label=0.0, late=False)
        else:
            self.counters.sampled_out += 1
        if self._late != "emit":
            self._drop_row(entry)

    def _emit(self, key: Key, entry: Waiting, ingestion_ms: int, *, label: float, late: bool) -> None:
        self._sample(key, entry.event_time_ms, ingestion_ms, entry.row, label, self._rate, late=late)

    def _sample(
        self, key: Key, event_time_ms: int, ingestion_ms: int, row: bytes, label: float, rate: float, *, late: bool
    ) -> None:
        number = int.from_bytes(row, "little", signed=True)
        rate = float(np.float32(rate))
        self._samples.append(Plain(*key, min(event_time_ms, self._newest_ms), ingestion_ms, number, label, rate, late))

    def _drop_row(self, entry: Waiting) -> None:
        entry.row = b""

    # --- timers ------------------------------------------------------------------------------------------------------

    def _timer(self, time_ms: int, kind: int, owner: Waiting | Parked, key: Key) -> None:
        heapq.heappush(self._timers, (time_ms, kind, owner.partition, owner.offset, key))

    def _fire(self, timer: tuple[int, int, int, int, Key]) -> None:
        """Do what is due, unless its owner is gone or has moved on: a timer is never taken out of the heap early."""
        time_ms, kind, partition, offset, key = timer
        owner = (self._parked if kind == _PARKED else self._waiting).get(key)
        if owner is None or (owner.partition, owner.offset) != (partition, offset):
            return
        if isinstance(owner, Parked):
            self._unpark(key)
            self.counters.unmatched_actions += 1
        elif kind == _DEADLINE and owner.open:
            self._negative_sample(key, owner)
        elif kind == _FORGET and owner.forget_ms == time_ms:
            self._forget(key, owner)

    def _forget(self, key: Key, entry: Waiting) -> None:
        del self._waiting[key]

    def _unpark(self, key: Key) -> None:
        del self._parked[key]
