"""The joiner: feature events and action events in, labelled samples out, in event time (Monolith, "Online Training").

Records are added as they are polled, each with its *order time*, and wait until the watermark passes them. They are
then worked off by (order time, stream, partition, offset), with the timers of what waits in between, so the samples and
their order depend on the records alone, not on which partition was polled first nor on how often the watermark moved.
For each (request id, item id):

- features wait for an action. A positive action makes a positive sample at once; without one, the window's end makes
  a negative, kept or not by a hash of the key (`negative_rate`). Every sample of a joined stream carries that rate.
- an action without features is parked for ``early_s``, in case they are still to come, then dropped.
- an action after the window is a *late positive*: emitted with ``late``, dropped, or returned for the dead letters.
- where the job has several tasks, or one whose label is an action's value, labels are *gathered* in the row's label
  block: the sample is made when an action of every task has come, else at the window's end. One without any action is
  a negative; one that ``negative_rate`` keeps weighs ``1 / negative_rate``, and its rate is 1.
- the key is remembered for ``dedup_s`` after its features (or its positive): repeats within that are dropped.

Joined samples pass through in the same order. The state is canonical: what holds the same saves the same bytes.
What waits lies in the native core, in some 150 bytes a key beside its ids and its packed features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec
import numpy as np
import xxhash

from monolith.config import JoinConfig, TaskConfig
from monolith.config.job import LatePositives
from monolith.config.labels import gathers, makers
from monolith.errors import CorruptError
from monolith.events import WATERMARK_END, WATERMARK_START, ActionEvent, Decoded, Joined, Record, Shown
from monolith.streaming import _joiner
from monolith.streaming.event_block import ActionColumns, EventBlock, ShownColumns
from monolith.streaming.joined import JoinedSamples
from monolith.streaming.joiner_segments import SavedJoiner, save_joiner
from monolith.streaming.joiner_state import JoinCounters, JoinerState, decode_joiner_state, encode_joiner_state
from monolith.streaming.sample_block import SampleBlock
from monolith.tables.batch import Ints

OnShown = Callable[[int, Shown | Joined], None]

SAMPLING_SEED = 0x6D6F6E6F  # fixed: the draw must be the same in every run


@dataclass(frozen=True, slots=True)
class LateAction:
    """A late positive for the dead letters."""

    event: ActionEvent
    ingestion_ms: int
    partition: int
    offset: int


class Joiner:
    """Joins the streams of one job. Owned by one thread."""

    def __init__(
        self,
        config: JoinConfig,
        head_bytes: int,
        on_shown: OnShown | None = None,
        tasks: Sequence[TaskConfig] = (),
        *,
        co_partitioned: bool = False,
        tells_turns: bool = False,
    ) -> None:
        """``head_bytes`` is `FeatureSchema.head_bytes`, and the size of a label block where rows have one.

        ``tasks`` are those of a job that joins features and actions; none: every action of ``config`` makes one label.
        ``on_shown`` is told of each feature event or joined sample that is not a repeat, when `advance` is done and in
        the order of samples, with how many samples of the advance came before it. ``co_partitioned``: features and
        actions do not find each other across partitions. ``tells_turns``: samples come with `JoinedSamples.turns`.
        """
        self.late_actions: list[LateAction] = []  # with policy dead_letter; whoever takes them clears the list
        self._config, self._head_bytes, self._on_shown = config, head_bytes, on_shown
        self._tasks = list(tasks) if gathers(tasks) else []
        self._co_partitioned, self._tells_turns = co_partitioned, tells_turns
        self._positive = frozenset(action for task in tasks for action in makers(task)) or config.positive_actions
        self._native = self._empty()

    def _empty(self) -> _joiner.Joiner:
        config = self._config
        below = round(config.negative_rate * 2**64)
        return _joiner.Joiner(
            window_ms=round(config.window_s * 1000),
            early_ms=round(config.early_s * 1000),
            dedup_ms=round(config.dedup_s * 1000),
            keep_below=below % 2**64,
            keep_all=below == 2**64,
            rate=1.0 if self._tasks else config.negative_rate,
            late=get_args(LatePositives).index(config.late_positives),
            head_bytes=self._head_bytes,
            tells_seen=self._on_shown is not None,
            tasks=[(makers(task), task.value is not None) for task in self._tasks],
            negative_weight=1.0 / config.negative_rate,
            co_partitioned=self._co_partitioned,
            tells_turns=self._tells_turns,
        )

    @property
    def counters(self) -> JoinCounters:
        """What became of the events since the run's first step."""
        return JoinCounters(*self._native.counters)

    @property
    def crossed(self) -> int:
        """Actions, in this process, whose features were in another partition, where they must not be."""
        return self._native.crossed

    @property
    def newest_ingestion_ms(self) -> int:
        """The newest ingestion time of all records that were added: that of samples which no record completes."""
        return self._native.newest_ingestion_ms

    def heard_of(self, newest_ingestion_ms: int) -> None:
        """Another joiner of the same streams has records up to ``newest_ingestion_ms``."""
        self._native.newest_ingestion_ms = max(self._native.newest_ingestion_ms, newest_ingestion_ms)

    @property
    def pending_bytes(self) -> int:
        """Memory of the records that the watermark has not passed."""
        return self._native.pending_bytes

    @property
    def total_bytes(self) -> int:
        """Memory of everything that waits."""
        return self._native.pending_bytes + self._native.held_bytes

    def add(self, record: Record, event: Decoded, stream: int, order_ms: int) -> None:
        """Take one record of stream number ``stream`` that is to be worked off at ``order_ms``."""
        request, item = event.request_id, event.item_id
        place = order_ms, stream, record.partition, record.offset, record.ingestion_time_ms, event.event_time_ms
        if isinstance(event, Shown):
            self._native.add_shown(*place, request, item, event.row, draw(request, item))
        elif isinstance(event, ActionEvent):
            value = 0.0 if event.value is msgspec.UNSET else event.value
            self._native.add_action(*place, request, item, event.action, self.is_ignored(event.action), value)
        else:
            self._native.add_joined(*place, request, item, event.row, event.label, event.rate)

    def add_block(self, block: SampleBlock, stream: int, order_ms: Ints) -> None:
        """`add` of each joined sample of ``block``, to be worked off at ``order_ms`` (n,)."""
        self._native.add_joined_block(
            stream,
            block.partition,
            block.offset,
            order_ms,
            block.event_time_ms,
            block.labels,
            np.ascontiguousarray(block.heads),
            *(block.bag_data.data, block.bag_data.lengths, block.keys.data, block.keys.lengths),
        )

    def add_events(self, block: EventBlock, stream: int, order_ms: Ints) -> None:
        """`add` of each event of ``block``, to be worked off at ``order_ms`` (n,)."""
        records, columns = block.records, block.columns
        times_ms = order_ms, records.ingestion_time_ms, block.event_time_ms
        shared = stream, records.partition, records.offsets, *times_ms, block.keys.data, block.keys.ends
        if isinstance(columns, ActionColumns):
            ignored = [self.is_ignored(name) for name in columns.names]
            _joiner.add_action_block(self._native, *shared, columns.numbers, list(columns.names), ignored)
            return
        packed = columns.packed
        with_rows = *shared, packed.heads, packed.bag_data.data, packed.bag_data.ends
        if isinstance(columns, ShownColumns):
            _joiner.add_shown_block(self._native, *with_rows, columns.draws)
        else:
            _joiner.add_joined_events(self._native, *with_rows, columns.labels, columns.rates)

    def pending_ms(self) -> int:
        """The order time of the next record that waits; WATERMARK_END if none does."""
        return self._native.pending_ms

    def last_ms(self) -> int:
        """The order time of the last record that waits; WATERMARK_START if none does. Looks at each of them."""
        return self._native.last_ms

    def due_ms(self) -> int:
        """The watermark from which on `advance` has something to do; WATERMARK_END if nothing waits."""
        return self._native.due_ms

    def advance(
        self,
        watermark_ms: int,
        *,
        released_ms: int = WATERMARK_START,
        newest_ms: int = WATERMARK_END,
        last_ms: int = WATERMARK_START,
    ) -> JoinedSamples:
        """Work off everything up to ``watermark_ms`` and return the samples that it makes, in order.

        Records up to ``released_ms`` are then worked off as well, but no timer: no window ends before the watermark.
        No sample is given a later event time than ``newest_ms``, which is what the streams' clocks have reached.
        WATERMARK_END also ends every window and drops what is parked: nothing waits any more. ``last_ms`` is then the
        `last_ms` of joiners that have other partitions.
        """
        self._native.advance(watermark_ms, released_ms, newest_ms, last_ms)
        for request, item, action, event_time_ms, *place, value in self._native.take_late_actions():
            has_value = any(task.value == action for task in self._tasks)
            event = ActionEvent(request, item, action, event_time_ms, value=value if has_value else msgspec.UNSET)
            self.late_actions.append(LateAction(event, *place))
        if self._on_shown is not None:
            for before, request, item, event_time_ms, row in self._native.take_seen():
                self._on_shown(before, Shown(request, item, event_time_ms, row))
        return JoinedSamples(self._native.take_samples())

    def nothing(self) -> JoinedSamples:
        """No samples at all."""
        return JoinedSamples((b"",) * 10)

    def state(self) -> bytes:
        """Everything that waits and every counter; equal joiners give equal bytes."""
        native = self._native
        return encode_joiner_state(
            JoinerState(
                newest_ingestion_ms=native.newest_ingestion_ms,
                counters=self.counters,
                pending=native.pending(),
                waiting=native.waiting(),
                parked=native.parked(),
            )
        )

    def save(self, *, whole: bool) -> SavedJoiner:
        """As `state`, but only what changed since the last call; ``whole``: earlier files cannot be had."""
        return save_joiner(self._native, self.counters, whole=whole)

    def restore(self, state: bytes | JoinerState) -> None:
        """Be what gave ``state``. Raises VersionError or CorruptError, and is then as before."""
        if isinstance(state, bytes):
            state = decode_joiner_state(state)
        native = self._empty()
        try:
            state.judged(self.is_ignored).give(native)
        except ValueError as error:
            raise CorruptError(f"the joiner's state does not fit together: {error}") from None
        self._native = native

    def is_ignored(self, action: str) -> bool:
        """Whether an action makes no positive sample."""
        return bool(self._positive) and action not in self._positive


def draw(request_id: str, item_id: str) -> int:
    """The number below 2^64 that decides whether a key's negative is kept."""
    return xxhash.xxh3_64_intdigest(f"{request_id}\0{item_id}".encode(), SAMPLING_SEED)
