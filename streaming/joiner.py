"""The joiner: feature events and action events in, labelled samples out, in event time (Monolith, "Online Training").

Records are added as they are polled, each with its *order time*, and wait until the watermark passes them. They are
then worked off by (order time, stream, partition, offset), with the timers of what waits in between, so the samples and
their order depend on the records alone, not on which partition was polled first nor on how often the watermark moved.
For each (request id, item id):

- features wait for an action. A positive action makes a positive sample at once; without one, the window's end makes
  a negative, kept or not by a hash of the key (`negative_rate`). Every sample of a joined stream carries that rate.
- an action without features is parked for ``early_s``, in case they are still to come, then dropped.
- an action after the window is a *late positive*: emitted with ``late``, dropped, or returned for the dead letters.
- the key is remembered for ``dedup_s`` after its features (or its positive): repeats within that are dropped.

Joined samples pass through in the same order. The state is canonical: what holds the same saves the same bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import xxhash

from monolith.config import JoinConfig
from monolith.errors import CorruptError, VersionError
from monolith.events import (
    WATERMARK_END,
    WATERMARK_START,
    ActionEvent,
    Event,
    FeatureEvent,
    FeatureValue,
    Record,
    Sample,
    SampleEvent,
)
from monolith.streaming.codec import decode, encode

JOINER_VERSION = 1

# Bytes of Python objects around a payload, measured with tracemalloc on 64-bit CPython 3.11 (tests hold them).
PENDING_BYTES = 700
WAITING_BYTES = 700
PARKED_BYTES = 500
PAYLOAD_FACTOR = 4  # a decoded event against its encoded bytes

_SAMPLING_SEED = 0x6D6F6E6F  # fixed: the draw must be the same in every run
_DEADLINE, _PARKED, _FORGET = 0, 1, 2  # timers of one instant fire in this order, after its records

Key = tuple[str, str]
OnShown = Callable[[int, FeatureEvent | SampleEvent], None]


class Pending(NamedTuple):
    """A record on its way to its order time."""

    order_ms: int
    stream: int
    partition: int
    offset: int
    ingestion_ms: int
    bytes: int
    event: Event


class _Waiting(msgspec.Struct, array_like=True, gc=False):
    """A key whose features came. ``features`` is MessagePack, empty once they are not needed any more."""

    event_time_ms: int
    partition: int
    offset: int
    deadline_ms: int
    forget_ms: int
    open: bool  # neither positive nor negative yet
    positive: bool
    features: bytes


class _Parked(msgspec.Struct, array_like=True, gc=False):
    """An action that waits for its features."""

    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int
    expire_ms: int


class JoinCounters(msgspec.Struct, kw_only=True):
    """What became of the events since the run's first step."""

    positives: int = 0
    negatives: int = 0
    late: int = 0  # positives after their window, whatever the policy made of them
    sampled_out: int = 0  # negatives that negative sampling dropped
    passed: int = 0  # samples that came joined
    duplicate_features: int = 0
    duplicate_actions: int = 0
    unmatched_actions: int = 0  # no features within early_s
    ignored_actions: int = 0  # not one of positive_actions


class _State(msgspec.Struct, array_like=True):
    version: int
    newest_ingestion_ms: int
    counters: JoinCounters
    pending: list[tuple[int, int, int, int, int, int, bytes]]
    waiting: list[tuple[str, str, _Waiting]]
    parked: list[tuple[str, str, _Parked]]


@dataclass(frozen=True, slots=True)
class LateAction:
    """A late positive for the dead letters."""

    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int


class Joiner:
    """Owned by one thread. `add` what was read, then `advance` the watermark and take the samples."""

    def __init__(self, config: JoinConfig, on_shown: OnShown | None = None) -> None:
        """``on_shown`` is called with every event that shows something and is no repeat, in order, and with the number
        of samples that the `advance` at work has made before it.
        """
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
        self._waiting: dict[Key, _Waiting] = {}
        self._parked: dict[Key, _Parked] = {}
        self._timers: list[tuple[int, int, int, int, Key]] = []  # (time, kind, partition, offset, key)
        self._samples: list[Sample] = []
        self._newest_ingestion_ms = WATERMARK_START
        self.pending_bytes = 0
        self.held_bytes = 0

    @property
    def total_bytes(self) -> int:
        """Memory of everything that waits, by estimate from the sizes of its parts."""
        return self.pending_bytes + self.held_bytes

    def add(self, record: Record, event: Event, stream: int, order_ms: int) -> None:
        """Take one record of stream number ``stream`` that is to be worked off at ``order_ms``."""
        size = PENDING_BYTES + PAYLOAD_FACTOR * len(record.value or b"")
        item = Pending(order_ms, stream, record.partition, record.offset, record.ingestion_time_ms, size, event)
        heapq.heappush(self._pending, item)
        self.pending_bytes += size
        self._newest_ingestion_ms = max(self._newest_ingestion_ms, record.ingestion_time_ms)

    def due_ms(self) -> int:
        """The watermark from which on `advance` has something to do; WATERMARK_END if nothing waits."""
        record_ms = self._pending[0].order_ms if self._pending else WATERMARK_END
        timer_ms = self._timers[0][0] if self._timers else WATERMARK_END
        return min(record_ms, timer_ms)

    def advance(self, watermark_ms: int) -> list[Sample]:
        """Work off everything up to ``watermark_ms`` and return the samples that it makes, in order.

        WATERMARK_END also ends every window and drops what is parked: nothing waits any more.
        """
        if watermark_ms == WATERMARK_END:
            self._work_off(max((item.order_ms for item in self._pending), default=WATERMARK_START))
            self._end_windows()
        else:
            self._work_off(watermark_ms)
        samples, self._samples = self._samples, []
        return samples

    def _work_off(self, until_ms: int) -> None:
        """Records and timers up to ``until_ms``, by time; a timer waits for the records of its instant."""
        while self._pending or self._timers:
            record_ms = self._pending[0].order_ms if self._pending else WATERMARK_END
            timer_ms = self._timers[0][0] if self._timers else WATERMARK_END
            if min(record_ms, timer_ms) > until_ms:
                break
            if record_ms <= timer_ms:
                self._release(heapq.heappop(self._pending))
            else:
                self._fire(heapq.heappop(self._timers))

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
        self.pending_bytes -= item.bytes
        event = item.event
        if isinstance(event, ActionEvent):
            self._act(item, event)
        elif isinstance(event, FeatureEvent):
            self._show(item, event)
        else:
            self.counters.passed += 1
            self._tell(event)
            sample = Sample(
                event.request_id,
                event.item_id,
                event.event_time_ms,
                item.ingestion_ms,
                event.features,
                event.label,
                event.rate,
            )
            self._samples.append(sample)

    def _show(self, item: Pending, event: FeatureEvent) -> None:
        key = (event.request_id, event.item_id)
        if key in self._waiting:
            self.counters.duplicate_features += 1
            return
        self._tell(event)
        deadline_ms = max(event.event_time_ms + self._window_ms, item.order_ms)
        forget_ms = max(event.event_time_ms + self._dedup_ms, deadline_ms)
        features = msgspec.msgpack.encode(event.features)
        entry = _Waiting(
            event.event_time_ms, item.partition, item.offset, deadline_ms, forget_ms, True, False, features
        )
        self._waiting[key] = entry
        self.held_bytes += _waiting_bytes(key, entry)
        self._timer(forget_ms, _FORGET, entry, key)
        parked = self._parked.get(key)
        if parked is None:
            self._timer(deadline_ms, _DEADLINE, entry, key)
        else:
            self._unpark(key)
            self._positive_sample(key, entry, item.order_ms, item.ingestion_ms, late=False)

    def _tell(self, event: FeatureEvent | SampleEvent) -> None:
        if self._on_shown is not None:
            self._on_shown(len(self._samples), event)

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
        parked = _Parked(event, item.ingestion_ms, item.partition, item.offset, item.order_ms + self._early_ms)
        self._parked[key] = parked
        self.held_bytes += _parked_bytes(key)
        self._timer(parked.expire_ms, _PARKED, parked, key)

    def _late_positive(self, key: Key, entry: _Waiting, item: Pending, event: ActionEvent) -> None:
        self.counters.late += 1
        if self._late == "emit":
            self._positive_sample(key, entry, item.order_ms, item.ingestion_ms, late=True)
            return
        entry.positive = True  # a repeat of it is a duplicate
        if self._late == "dead_letter":
            self.late_actions.append(LateAction(event, item.ingestion_ms, item.partition, item.offset))

    # --- samples -----------------------------------------------------------------------------------------------------

    def _positive_sample(self, key: Key, entry: _Waiting, order_ms: int, ingestion_ms: int, *, late: bool) -> None:
        self.counters.positives += 1
        self._emit(key, entry, ingestion_ms, label=1.0, late=late)
        entry.open, entry.positive = False, True
        self._drop_features(entry)
        forget_ms = order_ms + self._dedup_ms
        if forget_ms > entry.forget_ms:
            entry.forget_ms = forget_ms
            self._timer(forget_ms, _FORGET, entry, key)

    def _negative_sample(self, key: Key, entry: _Waiting) -> None:
        entry.open = False
        if xxhash.xxh3_64_intdigest("\0".join(key).encode(), _SAMPLING_SEED) < self._keep_below:
            self.counters.negatives += 1
            self._emit(key, entry, self._newest_ingestion_ms, label=0.0, late=False)
        else:
            self.counters.sampled_out += 1
        if self._late != "emit":
            self._drop_features(entry)

    def _emit(self, key: Key, entry: _Waiting, ingestion_ms: int, *, label: float, late: bool) -> None:
        features: dict[str, FeatureValue] = msgspec.msgpack.decode(entry.features)
        self._samples.append(Sample(*key, entry.event_time_ms, ingestion_ms, features, label, self._rate, late))

    def _drop_features(self, entry: _Waiting) -> None:
        self.held_bytes -= len(entry.features)
        entry.features = b""

    # --- timers ------------------------------------------------------------------------------------------------------

    def _timer(self, time_ms: int, kind: int, owner: _Waiting | _Parked, key: Key) -> None:
        heapq.heappush(self._timers, (time_ms, kind, owner.partition, owner.offset, key))

    def _fire(self, timer: tuple[int, int, int, int, Key]) -> None:
        """Do what is due, unless its owner is gone or has moved on: a timer is never taken out of the heap early."""
        time_ms, kind, partition, offset, key = timer
        owner = (self._parked if kind == _PARKED else self._waiting).get(key)
        if owner is None or (owner.partition, owner.offset) != (partition, offset):
            return
        if isinstance(owner, _Parked):
            self._unpark(key)
            self.counters.unmatched_actions += 1
        elif kind == _DEADLINE and owner.open:
            self._negative_sample(key, owner)
        elif kind == _FORGET and owner.forget_ms == time_ms:
            del self._waiting[key]
            self.held_bytes -= _waiting_bytes(key, owner)

    def _unpark(self, key: Key) -> None:
        del self._parked[key]
        self.held_bytes -= _parked_bytes(key)

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything that waits and every counter; equal joiners give equal bytes."""
        pending = [(*item[:6], encode(item.event)) for item in sorted(self._pending, key=lambda item: item[:4])]
        state = _State(
            JOINER_VERSION,
            self._newest_ingestion_ms,
            self.counters,
            pending,
            sorted(((*key, entry) for key, entry in self._waiting.items()), key=lambda row: row[:2]),
            sorted(((*key, parked) for key, parked in self._parked.items()), key=lambda row: row[:2]),
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Be what gave ``data``. Raises VersionError or CorruptError, and is then as before."""
        state = _decode_state(data)
        self.counters = state.counters
        self._newest_ingestion_ms = state.newest_ingestion_ms
        self._pending = [Pending(*row[:6], decode(row[6])) for row in state.pending]
        self._waiting = {(request, item): entry for request, item, entry in state.waiting}
        self._parked = {(request, item): parked for request, item, parked in state.parked}
        self._timers = []
        for key, entry in self._waiting.items():
            self._timer(entry.forget_ms, _FORGET, entry, key)
            if entry.open:
                self._timer(entry.deadline_ms, _DEADLINE, entry, key)
        for key, parked in self._parked.items():
            self._timer(parked.expire_ms, _PARKED, parked, key)
        heapq.heapify(self._pending)
        self.pending_bytes = sum(item.bytes for item in self._pending)
        self.held_bytes = sum(_waiting_bytes(key, entry) for key, entry in self._waiting.items())
        self.held_bytes += sum(_parked_bytes(key) for key in self._parked)


def _decode_state(data: bytes) -> _State:
    try:
        version = msgspec.msgpack.decode(data)[0]
        if version != JOINER_VERSION:
            raise VersionError(f"the joiner's state is of version {version!r}, this build reads {JOINER_VERSION}")
        return msgspec.msgpack.decode(data, type=_State)
    except (msgspec.DecodeError, TypeError, IndexError, KeyError) as error:
        raise CorruptError(f"the joiner's state cannot be read: {error}") from None


def _waiting_bytes(key: Key, entry: _Waiting) -> int:
    return WAITING_BYTES + len(key[0]) + len(key[1]) + len(entry.features)


def _parked_bytes(key: Key) -> int:
    return PARKED_BYTES + len(key[0]) + len(key[1])
