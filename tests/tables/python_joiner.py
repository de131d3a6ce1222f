"""The joiner once more, in plain Python objects: what the native one is held to."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from batches import Plain, unacted

from monolith.config import JoinConfig, TaskConfig
from monolith.config.labels import gathers, makers
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
    row: bytes
    seen: set[str] = field(default_factory=set)  # tasks that an action came for
    labels: dict[str, tuple[float, float]] = field(default_factory=dict)  # of gathered ones: label and weight by task


@dataclass
class Parked:
    """An action that waits for its features."""

    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int
    expire_ms: int


class PythonJoiner:
    """Of rows of 8 bytes, and label blocks where it gathers, as `batches.PlainJoiner`."""

    def __init__(self, config: JoinConfig, on_shown: OnShown | None = None, tasks: Sequence[TaskConfig] = ()) -> None:
        self._on_shown = on_shown
        self._tasks = {task.name: task for task in tasks} if gathers(tasks) else {}  # those whose labels are gathered
        self._positive = frozenset(action for task in tasks for action in makers(task)) or config.positive_actions
        self._all = set(self._tasks) or {"label"}
        self._window_ms = round(config.window_s * 1000)
        self._early_ms = round(config.early_s * 1000)
        self._dedup_ms = round(config.dedup_s * 1000)
        self._late = config.late_positives
        self._rate = 1.0 if self._tasks else config.negative_rate
        self._negative_weight = np.float32(1.0 / config.negative_rate)
        self._keep_below = round(config.negative_rate * 2**64)
        self.counters = JoinCounters()
        self.late_actions: list[LateAction] = []  # with policy dead_letter; whoever takes them clears the list
        self._pending: list[Pending] = []
        self._waiting: dict[Key, Waiting] = {}
        self._parked: dict[tuple[Key, str], Parked] = {}  # by action too, where labels are gathered
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
            pairs = tuple(zip(*np.frombuffer(event.row[:-8], np.float32).reshape(2, -1).tolist(), strict=True))
            times_ms = event.event_time_ms, item.ingestion_ms
            self._sample(key, *times_ms, event.row, event.label, event.rate, pairs, late=False)

    def _catch_up(self, key: Key, order_ms: int) -> None:
        """Do what timers of ``key`` alone would have done before ``order_ms``, in a place where timers stand still."""
        entry = self._waiting.get(key)
        for action in self._parked_actions(key):
            if self._parked[key, action].expire_ms < order_ms:
                del self._parked[key, action]
                self.counters.unmatched_actions += 1
        if entry is not None and entry.open and entry.deadline_ms < order_ms:
            self._close(key, entry, self._newest_ingestion_ms)
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
        entry = Waiting(event.event_time_ms, item.partition, item.offset, deadline_ms, forget_ms, True, event.row)
        entry.labels = {name: unacted(task) for name, task in self._tasks.items()}
        self._waiting[key] = entry
        self._timer(forget_ms, _FORGET, entry, key)
        for action in self._parked_actions(key):
            parked = self._parked.pop((key, action))
            if not self._label(key, entry, parked.event, item.order_ms):
                self.counters.duplicate_actions += 1
        if entry.seen == self._all:
            self._close(key, entry, item.ingestion_ms)
        else:
            self._timer(deadline_ms, _DEADLINE, entry, key)

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
        elif not self._made(event.action) - entry.seen:
            self.counters.duplicate_actions += 1
        elif entry.open:
            self._label(key, entry, event, item.order_ms)
            if entry.seen == self._all:
                self._close(key, entry, item.ingestion_ms)
        else:
            self._late_positive(key, entry, item, event)

    def _made(self, action: str) -> set[str]:
        """The tasks whose label ``action`` makes."""
        return {name for name, task in self._tasks.items() if action in makers(task)} if self._tasks else {"label"}

    def _label(self, key: Key, entry: Waiting, event: ActionEvent, order_ms: int | None) -> set[str]:
        """Take in an action; it makes the key remembered for longer, unless ``order_ms`` is None."""
        made = self._made(event.action) - entry.seen
        entry.seen |= made
        for name in made & self._tasks.keys():
            value = event.value if self._tasks[name].value is not None else 1.0
            entry.labels[name] = (float(np.float32(value)), 1.0)
        if order_ms is not None and order_ms + self._dedup_ms > entry.forget_ms:
            entry.forget_ms = order_ms + self._dedup_ms
            self._timer(entry.forget_ms, _FORGET, entry, key)
        return made

    def _park(self, key: Key, item: Pending, event: ActionEvent) -> None:
        action = event.action if self._tasks else ""
        if (key, action) in self._parked:
            self.counters.duplicate_actions += 1
            return
        parked = Parked(event, item.ingestion_ms, item.partition, item.offset, item.order_ms + self._early_ms)
        self._parked[key, action] = parked
        self._timer(parked.expire_ms, _PARKED, parked, key)

    def _parked_actions(self, key: Key) -> list[str]:
        return [action for at, action in self._parked if at == key]

    def _late_positive(self, key: Key, entry: Waiting, item: Pending, event: ActionEvent) -> None:
        self.counters.late += 1
        made = self._label(key, entry, event, item.order_ms if self._late == "emit" else None)
        if self._late == "emit":
            self.counters.positives += 1
            labels = {name: pair if name in made else (0.0, 0.0) for name, pair in entry.labels.items()}
            self._emit(key, entry, item.ingestion_ms, 1.0, labels, late=True)
        elif self._late == "dead_letter":
            self.late_actions.append(LateAction(event, item.ingestion_ms, item.partition, item.offset))

    # --- samples -----------------------------------------------------------------------------------------------------

    def _close(self, key: Key, entry: Waiting, ingestion_ms: int) -> None:
        """Every task has its action, or the window has ended."""
        entry.open = False
        if entry.seen:
            self.counters.positives += 1
            self._emit(key, entry, ingestion_ms, 1.0, entry.labels, late=False)
        elif draw(*key) < self._keep_below:
            self.counters.negatives += 1
            labels = {
                name: (label, float(np.float32(weight) * self._negative_weight))
                for name, (label, weight) in entry.labels.items()
            }
            self._emit(key, entry, ingestion_ms, 0.0, labels, late=False)
        else:
            self.counters.sampled_out += 1

    def _emit(
        self,
        key: Key,
        entry: Waiting,
        ingestion_ms: int,
        label: float,
        labels: dict[str, tuple[float, float]],
        *,
        late: bool,
    ) -> None:
        pairs = tuple(labels[name] for name in self._tasks)
        self._sample(key, entry.event_time_ms, ingestion_ms, entry.row, label, self._rate, pairs, late=late)

    def _sample(
        self,
        key: Key,
        event_time_ms: int,
        ingestion_ms: int,
        row: bytes,
        label: float,
        rate: float,
        labels: tuple[tuple[float, float], ...] = (),
        *,
        late: bool,
    ) -> None:
        number = int.from_bytes(row[-8:], "little", signed=True)
        rate, time_ms = float(np.float32(rate)), min(event_time_ms, self._newest_ms)
        self._samples.append(Plain(*key, time_ms, ingestion_ms, number, label, rate, late, labels))

    # --- timers ------------------------------------------------------------------------------------------------------

    def _timer(self, time_ms: int, kind: int, owner: Waiting | Parked, key: Key) -> None:
        heapq.heappush(self._timers, (time_ms, kind, owner.partition, owner.offset, key))

    def _fire(self, timer: tuple[int, int, int, int, Key]) -> None:
        """Do what is due, unless its owner is gone or has moved on: a timer is never taken out of the heap early."""
        time_ms, kind, partition, offset, key = timer
        if kind == _PARKED:
            for action in self._parked_actions(key):
                parked = self._parked[key, action]
                if (parked.partition, parked.offset) == (partition, offset):
                    del self._parked[key, action]
                    self.counters.unmatched_actions += 1
            return
        owner = self._waiting.get(key)
        if owner is None or (owner.partition, owner.offset) != (partition, offset):
            return
        if kind == _DEADLINE and owner.open:
            self._close(key, owner, self._newest_ingestion_ms)
        elif kind == _FORGET and owner.forget_ms == time_ms:
            self._forget(key, owner)

    def _forget(self, key: Key, entry: Waiting) -> None:
        del self._waiting[key]
