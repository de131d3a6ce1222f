"""Journal steps: the one place where timing is turned into facts, and the only thing of this package a trainer sees.

`StepReader.next` polls the job's streams, cuts a step, *writes down* what it cut (which records, which watermark,
whether to publish) and then runs it: records -> joiner -> samples. After a crash `restore` puts it back where a
snapshot was taken, and the steps behind that come from the journal instead of the clock, by the same code: same
samples, same order, same watermark, same publishing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

import msgspec

from monolith.config import JobConfig
from monolith.errors import ConfigError, CorruptError, EventError, VersionError
from monolith.events import WATERMARK_END, WATERMARK_START, Record, Sample
from monolith.streaming.codec import FeatureDecoder, encode
from monolith.streaming.codec import Stream as StreamName
from monolith.streaming.cutting import Cut, cut_oldest, cut_slowest, watermark_after
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.joiner import JoinCounters, Joiner
from monolith.streaming.journal import Journal, Positions, StepEntry
from monolith.streaming.lanes import Inlet, Lane, Ready
from monolith.streaming.source import open_source

log = logging.getLogger(__name__)

STATE_VERSION = 1
_WAIT_S = 0.01  # how long one stream is waited for before the others are looked at again
_CROWDED = 0.75  # share of join.max_bytes from which on lanes that run ahead are not read


@dataclass(frozen=True, slots=True)
class Step:
    """One journal step, run: what a trainer needs of it."""

    number: int  # counts from 1
    samples: list[Sample]  # in the order in which they are to be trained
    watermark_ms: int  # event time that all streams have passed; at the end of the streams, the newest event time
    publish: bool  # cut and publish a delta after this step
    records: int  # read from the streams in this step
    ended: bool  # nothing comes after it


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the job is, for people and metrics."""

    step: int
    records: int  # in steps since the run's first
    lag: int  # records in the streams that no step has taken
    watermark_ms: int
    watermark_lag_ms: int  # wall clock less watermark; 0 before the first event
    waiting_bytes: int  # what the joiner holds
    skipped: int  # offsets lost and passed over by this process
    joined: JoinCounters
    dead_letters: dict[str, int]  # by reason, since the run's first step
    positions: Positions
    ends: Positions


class _LaneState(msgspec.Struct, array_like=True):
    position: int
    clock_ms: int
    stop: int | None


class _State(msgspec.Struct, array_like=True):
    version: int
    step: int
    records: int
    watermark_ms: int
    ended: bool
    unpublished: bool
    lanes: dict[str, dict[int, _LaneState]]
    joiner: bytes
    letters: bytes


class StepReader:
    """Cuts, writes down and runs the steps of one job. Owned by one thread; a context manager."""

    def __init__(
        self,
        job: JobConfig,
        inlets: list[Inlet],
        journal: Journal,
        letters: DeadLetters,
        *,
        replay_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand before the first step. `open` builds the parts from the job."""
        self._job = job
        self._inlets = inlets
        self._journal = journal
        self._letters = letters
        self._replay_only = replay_only
        self._clock = clock
        self._joiner = Joiner(job.join)
        self._out_of_order_ms = round(job.input.max_out_of_order_s * 1000)
        self._step = 0
        self._records = 0
        self._watermark_ms = WATERMARK_START
        self._ended = False
        self._unpublished = False
        self._begins: Positions = {}
        self._stops: Positions = {}
        self._live = False
        self._linger_until: float | None = None
        self._last_publish = clock()
        self._crowded_bytes: int | None = None  # the joiner's before a step that was cut in a crowd
        self._committable: Positions = {}
        self._replay_from(1)

    @classmethod
    def open(cls, job: JobConfig, journal_dir: Path, *, replay_only: bool = False) -> StepReader:
        """Open the job's streams, its dead letters and its journal.

        With ``replay_only`` the steps are those of the journal, the last one is `Step.ended`, and nothing is written.
        Raises ConfigError for URLs that cannot be, for a stream that is not there (unless the job follows it), and for
        a journal that another process has open; CorruptError for a damaged journal.
        """
        journal = Journal(journal_dir, read_only=replay_only)
        inlets: list[Inlet] = []
        try:
            letters = DeadLetters(None if replay_only else job.input.dead_letters)
            inlets += _open_inlets(job)
        except BaseException:
            journal.close()
            raise
        return cls(job, inlets, journal, letters, replay_only=replay_only)

    @property
    def lineage(self) -> str:
        """The name of this run from its first step on, drawn when its journal was begun."""
        return self._journal.lineage

    def next(self, timeout_s: float) -> Step | None:
        """The next step, or None if none came together within ``timeout_s``.

        When it returns, the step's journal entry is written, and durable if the step publishes. Raises DataLossError
        for records that are gone, UnavailableError if the journal's disk is full (call again when there is room).
        """
        deadline = self._clock() + timeout_s
        if self._recorded is not None:
            return self._next_recorded(self._recorded, deadline)
        if self._replay_only:
            return self._nothing_more()
        return self._next_live(deadline)

    # --- from the journal --------------------------------------------------------------------------------------------

    def _replay_from(self, step: int) -> None:
        self._entries = self._journal.read(step) if step <= self._journal.last_step else iter(())
        self._recorded = next(self._entries, None)

    def _next_recorded(self, entry: StepEntry, deadline: float) -> Step | None:
        self._meet(entry)
        while missing := [(inlet, parts) for inlet in self._inlets if (parts := _uncovered(inlet, entry))]:
            for inlet, partitions in missing:
                inlet.fill(self._job.train.step_records, _WAIT_S, partitions, self._clock)
            if self._clock() >= deadline and any(_uncovered(inlet, entry) for inlet, _ in missing):
                return None
        self._recorded = next(self._entries, None)
        last = self._replay_only and self._recorded is None
        return self._run(entry, last=last)

    def _meet(self, entry: StepEntry) -> None:
        """Add the lanes and ends that the run met at this step."""
        for inlet in self._inlets:
            for partition, begin in entry.begins.get(inlet.name, {}).items():
                if partition not in inlet.lanes:
                    inlet.add_lane(partition, begin, seek=True)
            for partition, stop in entry.stop_at.get(inlet.name, {}).items():
                inlet.lanes[partition].stop = stop

    def _nothing_more(self) -> Step:
        """A step that is none: it says that the run is at its end, and leaves everything as it is."""
        return Step(self._step, [], self._watermark_ms, publish=False, records=0, ended=True)

    # --- live --------------------------------------------------------------------------------------------------------

    def _next_live(self, deadline: float) -> Step | None:
        if not self._live:
            self._go_live()
        wait_s = 0.0
        while True:
            self._discover()
            self._fill(wait_s)
            if self._ended and self._at_end():
                return self._nothing_more()
            entry = self._cut()
            if entry is not None:
                return self._run(entry)
            rest_s = deadline - self._clock()
            if rest_s <= 0:
                return None
            wait_s = min(_WAIT_S, rest_s)

    def _go_live(self) -> None:
        self._live = True
        now = self._clock()
        self._last_publish = now
        for lane in self._lanes():
            lane.heard_at = now
            if self._ended:  # the run ended before; what was appended since is a new stretch with a new end
                lane.stop = None
        log.info("live step=%d watermark_ms=%d", self._step, self._watermark_ms)

    def _discover(self) -> None:
        """Lanes for partitions that are new, and ends for lanes that are to have one."""
        for inlet in self._inlets:
            for partition, position in inlet.new_partitions().items():
                inlet.add_lane(partition, position, seek=False).heard_at = self._clock()
                self._begins.setdefault(inlet.name, {})[partition] = position
            if inlet.source.bounded or not self._job.input.follow:
                self._set_stops(inlet)

    def _set_stops(self, inlet: Inlet) -> None:
        lanes = [lane for lane in inlet.lanes.values() if lane.stop is None]
        ends = inlet.source.end_position() if lanes else {}
        for lane in lanes:
            if lane.partition in ends:
                lane.stop = ends[lane.partition]
                self._stops.setdefault(inlet.name, {})[lane.partition] = lane.stop

    def _fill(self, wait_s: float) -> None:
        """Poll every lane that has room; wait for a moment if none gives anything."""
        most = self._job.train.step_records
        wanted = [(inlet, [p for p, lane in inlet.lanes.items() if lane.has_room(most)]) for inlet in self._inlets]
        came = [inlet.fill(most, 0.0, partitions, self._clock) for inlet, partitions in wanted]
        if wait_s > 0 and not any(came):
            for inlet, partitions in wanted:
                if inlet.fill(most, wait_s / len(wanted), partitions, self._clock):
                    break
            else:
                if not any(partitions for _, partitions in wanted):
                    time.sleep(wait_s)

    def _cut(self) -> StepEntry | None:
        """The entry of a step that is worth cutting now, written to the journal; None if it is better to wait."""
        if any(not inlet.lanes for inlet in self._inlets):
            return None
        lanes = self._lanes()
        caught_up = self._caught_up()
        idle = {lane for lane in caught_up if self._clock() - lane.heard_at >= self._job.input.idle_s}
        cut = self._choose(lanes, idle)
        watermark_ms = watermark_after(cut, idle, self._out_of_order_ms, self._watermark_ms)
        publish = self._unpublished and self._clock() - self._last_publish >= self._job.train.publish_every_s
        ended = watermark_ms == WATERMARK_END
        behind = any(not lane.ready and lane not in caught_up and not lane.done for lane in lanes)
        if not (publish or ended or watermark_ms >= self._joiner.due_ms() or self._is_full(cut, behind)):
            return None
        self._linger_until = None
        return self._write(cut, watermark_ms, publish or ended, ended, idle)

    def _choose(self, lanes: list[Lane], idle: set[Lane]) -> Cut:
        """The records of the step; in a crowd only those that let what waits be worked off."""
        most, limit = self._job.train.step_records, self._job.join.max_bytes
        held = self._joiner.total_bytes
        if held <= _CROWDED * limit:
            self._crowded_bytes = None
            return cut_oldest(lanes, most)
        if self._crowded_bytes is not None and held > max(limit, self._crowded_bytes):
            raise _does_not_fit(held, self._job)
        cut = cut_slowest(lanes, most, idle)
        self._crowded_bytes = held
        return cut

    def _is_full(self, cut: Cut, behind: bool) -> bool:
        """Whether the records make a step: enough of them, with no lane left behind, or waited for long enough."""
        if not cut.records:
            return False
        if cut.records >= self._job.train.step_records and not behind:
            return True
        now = self._clock()
        if self._linger_until is None:
            self._linger_until = now + self._job.train.step_linger_s
        return now >= self._linger_until

    def _write(self, cut: Cut, watermark_ms: int, publish: bool, ended: bool, idle: set[Lane]) -> StepEntry:
        entry = StepEntry(
            step=self._step + 1,
            ends={i.name: {p: cut.end(lane) for p, lane in sorted(i.lanes.items())} for i in self._inlets},
            watermark_ms=watermark_ms,
            publish=publish,
            ended=ended,
            idle={
                i.name: names for i in self._inlets if (names := [p for p, x in sorted(i.lanes.items()) if x in idle])
            },
            begins=self._begins,
            stop_at=self._stops,
        )
        self._journal.append(entry)
        self._begins, self._stops = {}, {}
        if publish:
            self._journal.sync()
            self._last_publish = self._clock()
        return entry

    # --- both --------------------------------------------------------------------------------------------------------

    def _run(self, entry: StepEntry, *, last: bool = False) -> Step:
        """Do what ``entry`` says: a function of the state before, the streams and the entry, and of nothing else."""
        records = 0
        for inlet in self._inlets:
            for partition, end in entry.ends[inlet.name].items():
                lane = inlet.lanes[partition]
                for item in lane.take(end):
                    self._feed(lane, item)
                    records += 1
        samples = self._joiner.advance(entry.watermark_ms)
        self._bury_late_actions()
        self._letters.flush()
        newest_ms = max((lane.clock_ms for lane in self._lanes()), default=WATERMARK_START)
        ended = entry.watermark_ms == WATERMARK_END
        self._watermark_ms = max(self._watermark_ms, newest_ms) if ended else entry.watermark_ms
        self._step, self._ended = entry.step, entry.ended
        self._records += records
        self._unpublished = (self._unpublished or bool(samples)) and not entry.publish
        return Step(entry.step, samples, self._watermark_ms, entry.publish, records, entry.ended or last)

    def _feed(self, lane: Lane, item: Ready) -> None:
        if isinstance(item.event, EventError):
            self._letters.add(lane.stream, item.record, item.event.reason, item.event.detail)
            return
        # No later record of the lane is given an older order time, so none can be overtaken by the watermark.
        order_ms = max(item.time_ms, lane.clock_ms - self._out_of_order_ms)
        lane.clock_ms = max(lane.clock_ms, item.time_ms)
        self._joiner.add(item.record, item.event, lane.number, order_ms)

    def _bury_late_actions(self) -> None:
        for late in self._joiner.late_actions:
            event = late.event
            record = Record(None, encode(event), event.event_time_ms, late.ingestion_ms, late.partition, late.offset)
            detail = f"{event.action!r} of {event.request_id}/{event.item_id} came after join.window_s"
            self._letters.add("actions", record, "late_positive", detail)
        self._joiner.late_actions.clear()

    def _lanes(self) -> list[Lane]:
        return [inlet.lanes[partition] for inlet in self._inlets for partition in sorted(inlet.lanes)]

    def _caught_up(self) -> set[Lane]:
        return {inlet.lanes[partition] for inlet in self._inlets for partition in inlet.caught_up()}

    def _at_end(self) -> bool:
        return all(inlet.lanes and all(lane.done for lane in inlet.lanes.values()) for inlet in self._inlets)

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything that the next step depends on besides the streams and the journal; the latter is durable then.

        Canonical: the same state gives the same bytes.
        """
        self._journal.sync()
        self._committable = self._positions()
        lanes: dict[str, dict[int, _LaneState]] = {
            inlet.name: {p: _LaneState(x.position, x.clock_ms, x.stop) for p, x in sorted(inlet.lanes.items())}
            for inlet in self._inlets
        }
        state = _State(
            STATE_VERSION,
            self._step,
            self._records,
            self._watermark_ms,
            self._ended,
            self._unpublished,
            lanes,
            self._joiner.state(),
            self._letters.state(),
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Stand where `state` gave ``data``; the journal's later steps come next.

        Raises VersionError or CorruptError for bytes that are no state, or are of a step that the journal lacks, and
        ConfigError for those of a job with other streams.
        """
        state = _decode_state(data)
        if state.step > self._journal.last_step:
            raise CorruptError(
                f"the snapshot is of step {state.step}, but the step journal {self._journal.folder} ends at step "
                f"{self._journal.last_step}: restore the journal that belongs to it"
            )
        if set(state.lanes) != {inlet.name for inlet in self._inlets}:
            raise ConfigError(f"the snapshot is of the streams {sorted(state.lanes)}; the job's input names others")
        self._joiner.restore(state.joiner)
        for inlet in self._inlets:
            inlet.lanes = {}
            for partition, kept in state.lanes[inlet.name].items():
                lane = inlet.add_lane(partition, kept.position, seek=True)
                lane.clock_ms, lane.stop = kept.clock_ms, kept.stop
        self._step, self._records, self._watermark_ms = state.step, state.records, state.watermark_ms
        self._ended, self._unpublished = state.ended, state.unpublished
        self._letters.restore(state.letters, self._positions())
        self._begins, self._stops, self._live = {}, {}, False
        self._replay_from(state.step + 1)

    def _positions(self) -> Positions:
        return {inlet.name: {p: lane.position for p, lane in sorted(inlet.lanes.items())} for inlet in self._inlets}

    def commit(self) -> None:
        """Tell the streams' own book-keeping (Kafka groups) the positions of the last `state`, which is now kept."""
        for inlet in self._inlets:
            if positions := self._committable.get(inlet.name):
                inlet.source.commit(positions)

    def lag(self) -> int:
        """Records in the streams that no step has taken yet, as last heard of."""
        return sum(inlet.lag() for inlet in self._inlets)

    def progress(self) -> Progress:
        """A look at everything that a person asks a running job."""
        known = self._watermark_ms != WATERMARK_START
        return Progress(
            step=self._step,
            records=self._records,
            lag=self.lag(),
            watermark_ms=self._watermark_ms,
            watermark_lag_ms=max(0, time.time_ns() // 1_000_000 - self._watermark_ms) if known else 0,
            waiting_bytes=self._joiner.total_bytes,
            skipped=sum(inlet.source.skipped for inlet in self._inlets),
            joined=msgspec.structs.replace(self._joiner.counters),
            dead_letters=dict(self._letters.counts),
            positions=self._positions(),
            ends={inlet.name: inlet.source.end_position() for inlet in self._inlets},
        )

    def close(self) -> None:
        """Let go of streams, dead letters and journal. Twice is fine."""
        for inlet in self._inlets:
            inlet.source.close()
        self._letters.close()
        self._journal.close()

    def __enter__(self) -> StepReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False


def _open_inlets(job: JobConfig) -> list[Inlet]:
    decoder = FeatureDecoder(job)
    inlets: list[Inlet] = []
    names: tuple[StreamName, ...] = get_args(StreamName)
    try:
        for number, name in enumerate(names):  # at one instant features come before actions
            url: str | None = getattr(job.input, name)
            if url is not None:
                source = open_source(url, wait=job.input.follow, on_data_loss=job.input.on_data_loss, group=job.name)
                inlets.append(Inlet(name, number, source, decoder))
    except BaseException:
        for inlet in inlets:
            inlet.source.close()
        raise
    if {inlet.name for inlet in inlets} not in ({"features", "actions"}, {"samples"}):
        raise ConfigError(f"job {job.name!r} needs input.features and input.actions, or input.samples alone")
    return inlets


def _by_stream(lanes: Collection[Lane]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for lane in sorted(lanes, key=lambda lane: (lane.number, lane.partition)):
        found.setdefault(lane.stream, []).append(lane.partition)
    return found


def _uncovered(inlet: Inlet, entry: StepEntry) -> list[int]:
    """Partitions of which ``entry`` takes records that are not polled yet."""
    return [p for p, end in entry.ends[inlet.name].items() if inlet.lanes[p].polled < end]


def _does_not_fit(held: int, job: JobConfig) -> ConfigError:
    return ConfigError(
        f"what waits for its label takes {held:,} bytes, join.max_bytes allows {job.join.max_bytes:,}: raise "
        f"join.max_bytes, or lower join.window_s ({job.join.window_s:g}), join.dedup_s ({job.join.dedup_s:g}) or "
        f"input.max_out_of_order_s ({job.input.max_out_of_order_s:g})"
    )


def _decode_state(data: bytes) -> _State:
    try:
        version = msgspec.msgpack.decode(data)[0]
        if version != STATE_VERSION:
            raise VersionError(f"the reader's state is of version {version!r}, this build reads {STATE_VERSION}")
        return msgspec.msgpack.decode(data, type=_State)
    except (msgspec.DecodeError, TypeError, IndexError, KeyError) as error:
        raise CorruptError(f"the reader's state cannot be read: {error}") from None
