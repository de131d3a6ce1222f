"""Journal steps: the one place where timing is turned into facts, and the only thing of this package a trainer sees.

`StepReader.next` polls the job's streams, cuts a step, *writes down* what it cut (which records, which watermark,
whether to publish) and then runs it: records -> joiner -> samples. After a crash `restore` puts it back where a
snapshot was taken, and the steps behind that come from the journal instead of the clock, by the same code: same
samples, same order, same watermark, same publishing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from monolith.config import JobConfig
from monolith.errors import ConfigError, CorruptError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.gate import Gate
from monolith.streaming.inlets import open_inlets
from monolith.streaming.joined import JoinedSamples, Key
from monolith.streaming.joiner import Joiner, OnShown
from monolith.streaming.journal import Journal, Positions, StepEntry, UnwrittenJournal
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.lanes import Inlet, Lane
from monolith.streaming.live import WAIT_S, LiveCutter, Standing
from monolith.streaming.progress import Progress
from monolith.streaming.reader_state import (
    STATE_VERSION,
    LaneState,
    ReaderState,
    decode_reader_state,
    lane_state,
    restore_lane,
)
from monolith.streaming.refit import refitted
from monolith.streaming.rejects import Rejects
from monolith.streaming.step_digest import StepDigest
from monolith.streaming.watch import Watch
from monolith.tables.batch import Batch
from monolith.tables.schema import FeatureSchema, card_features

log = logging.getLogger(__name__)

UNDATED_MS = 0  # the event time of samples that come out, by silence or at an end, before any partition has a clock


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One journal step, run: what a trainer needs of it."""

    number: int  # counts from 1
    batch: Batch  # its samples, in the order in which they are to be trained
    keys: Sequence[Key]  # (request id, item id) of each
    watermark_ms: int  # event time that all streams have passed; at the end of the streams, the newest event time
    publish: bool  # cut and publish a delta after this step
    records: int  # read from the streams in this step
    ended: bool  # nothing comes after it
    digest: bytes = b""  # of what it was made from: the journal entry and the records
    strings: Mapping[str, Mapping[int, str]] = field(
        default_factory=dict
    )  # feature -> id -> string, where they are kept


class StepReader:
    """Cuts, writes down and runs the steps of one job. Owned by one thread; a context manager."""

    def __init__(
        self,
        job: JobConfig,
        inlets: list[Inlet],
        journal: Journal | UnwrittenJournal,
        letters: DeadLetters,
        *,
        replay_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
        cutter: LiveCutter | None = None,
        on_shown: OnShown | None = None,
    ) -> None:
        """Stand before the first step. `open` builds the parts from the job.

        ``cutter`` proposes the steps that the journal does not hold. ``on_shown`` is the joiner's.
        """
        self._job = job
        self._inlets = inlets
        self._journal = journal
        self._letters = letters
        self._replay_only = replay_only
        self._clock = clock
        ignore = job.input.unknown_features == "ignore"
        self.schema = FeatureSchema(card_features(job), ignore_unknown=ignore, keep_strings=True)
        self._labels = LabelBlocks(job)
        self._joiner = Joiner(job.join, self._labels.size + self.schema.head_bytes, on_shown)
        self._gate = Gate(job.input, self._joiner, letters)
        self._rejects = Rejects(job.input.max_reject_share, job.train.window_samples)
        self._watch = Watch(round(job.input.max_out_of_order_s * 1000))
        self._step = 0
        self._records = 0
        self._watermark_ms = WATERMARK_START
        self._ended = False
        self._unpublished = False
        self._live = False
        self._cutter = cutter or LiveCutter(job, inlets, clock)
        self._committable: Positions = {}
        self._recorded: StepEntry | None = None  # the journalled step that is next
        self._entries: Iterator[StepEntry] | None = None  # those after it; None: where to begin is not known yet

    @classmethod
    def open(
        cls,
        job: JobConfig,
        journal_dir: Path,
        *,
        replay_only: bool = False,
        on_shown: OnShown | None = None,
    ) -> StepReader:
        """Open the job's streams, its dead letters and its journal.

        With ``replay_only`` the steps are those of the journal, the last one is `Step.ended`, and nothing is written.
        Raises ConfigError for URLs that cannot be, for a stream that is not there (unless the job follows it), and for
        a journal that another process has open; CorruptError for a damaged journal.
        """
        journal = Journal(journal_dir, read_only=replay_only)
        try:
            inlets = open_inlets(job)
            letters = DeadLetters(None if replay_only else job.input.dead_letters)
        except BaseException:
            journal.close()
            raise
        return cls(job, inlets, journal, letters, replay_only=replay_only, on_shown=on_shown)

    @property
    def lineage(self) -> str:
        """The name of this run from its first step on, drawn when its journal was begun."""
        return self._journal.lineage

    @property
    def first_step(self) -> int:
        """The oldest step that the journal still has; a restored snapshot must be of the one before it, or later."""
        return self._journal.first_step

    @property
    def last_step(self) -> int:
        """The newest journalled step; those after a restored snapshot are run again first."""
        return self._journal.last_step

    def publishes_after(self, step: int) -> int:
        """How many of the journalled steps after ``step`` publish: as many sequences will be made again."""
        return sum(entry.publish for entry in self._journalled(step + 1))

    def next(self, timeout_s: float) -> Step | None:
        """The next step, or None if none came together within ``timeout_s``.

        When it returns, the step's journal entry is written, and durable if the step publishes. Raises DataLossError
        for records or journalled steps that are gone, UnavailableError if the journal's disk is full (call again when
        there is room), and DurabilityError if the disk fails to keep the journal: that is final.
        """
        deadline = time.monotonic() + timeout_s
        if self._entries is None:
            self._entries = self._journalled(self._step + 1)
            self._recorded = next(self._entries, None)
        if self._recorded is not None:
            return self._next_recorded(self._recorded, deadline)
        if self._replay_only:
            return self._nothing_more()
        return self._next_live(deadline)

    # --- from the journal --------------------------------------------------------------------------------------------

    def _journalled(self, step: int) -> Iterator[StepEntry]:
        return self._journal.read(step) if step <= self._journal.last_step else iter(())

    def _next_recorded(self, entry: StepEntry, deadline: float) -> Step | None:
        self._meet(entry)
        while missing := [(inlet, parts) for inlet in self._inlets if (parts := _uncovered(inlet, entry))]:
            for inlet, partitions in missing:
                inlet.fill(self._job.train.step_records, WAIT_S, partitions, self._clock)
            if time.monotonic() >= deadline and any(_uncovered(inlet, entry) for inlet, _ in missing):
                return None
        if entry.publish:
            self._journal.sync()  # the process that wrote it may have been killed before it could
        assert self._entries is not None
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
        return self._made(self._joiner.nothing(), publish=False, records=0, ended=True)

    # --- live --------------------------------------------------------------------------------------------------------

    def _next_live(self, deadline: float) -> Step | None:
        if not self._live:
            self._live = True
            self._cutter.start(ended=self._ended)
            if self._journal.lineage:  # a run, and not a look at what is there
                log.info("live step=%d watermark_ms=%d", self._step, self._watermark_ms)
        wait_s = 0.0
        while True:
            self._cutter.look(wait_s)
            if self._ended and self._cutter.at_end():
                return self._nothing_more()
            entry = self._cutter.cut(self._standing())
            if entry is not None:
                self._gate.check_units(self._inlets, entry)
                self._rejects.check(self._inlets, entry)
                self._write(entry)
                return self._run(entry)
            rest_s = deadline - time.monotonic()
            if rest_s <= 0:
                return None
            wait_s = min(WAIT_S, rest_s)

    def closing_step(self) -> Step | None:
        """A step that takes no record and publishes: for a trainer that is told to stop, or whose store lost its rows.

        None where the journal has steps that are to be run again first, and in a replay, which adds no step. When it
        returns, the entry is durable. Raises UnavailableError as `next` does.
        """
        if self._replay_only or self._step != self._journal.last_step:
            return None
        entry = self._cutter.closing(self._standing())
        self._write(entry)
        return self._run(entry)

    def _standing(self) -> Standing:
        joiner = self._joiner
        return Standing(
            step=self._step,
            watermark_ms=self._watermark_ms,
            held_bytes=joiner.total_bytes,
            due_ms=joiner.due_ms(),
            pending_ms=joiner.pending_ms(),
            unpublished=self._unpublished,
        )

    def _write(self, entry: StepEntry) -> None:
        self._journal.append(entry)
        self._cutter.written(entry)
        self._recorded = entry  # should the sync fail, no later call may pass over this entry
        if entry.publish:
            self._journal.sync()
        self._recorded = None

    # --- both --------------------------------------------------------------------------------------------------------

    def _run(self, entry: StepEntry, *, last: bool = False) -> Step:
        """Do what ``entry`` says: a function of the state before, the streams and the entry, and of nothing else."""
        records, made_from = 0, StepDigest(entry)
        for inlet in self._inlets:
            for partition, end in entry.ends[inlet.name].items():
                lane = inlet.lanes[partition]
                taken = lane.take(end)
                made_from.add(taken)
                records += self._gate.take(lane, taken, entry.agree)
        lanes, ended = self._lanes(), entry.watermark_ms == WATERMARK_END
        if ended:
            newest_ms = self._gate.end(lanes, entry.agree)
        else:
            self._gate.settle(lanes, max(entry.watermark_ms, entry.released_ms))
            newest_ms = max((lane.clock.ms for lane in lanes), default=WATERMARK_START)
        samples = self._joiner.advance(
            entry.watermark_ms, released_ms=entry.released_ms, newest_ms=max(newest_ms, UNDATED_MS)
        )
        self._gate.bury_late_actions()
        self._letters.flush()
        self._watermark_ms = max(self._watermark_ms, newest_ms) if ended else entry.watermark_ms
        self._watch.look(lanes, entry, records, self._clock())
        self._step, self._ended = entry.step, entry.ended
        self._records += records
        self._unpublished = (self._unpublished or bool(len(samples))) and not entry.publish
        return self._made(
            samples, publish=entry.publish, records=records, ended=entry.ended or last, digest=made_from.digest()
        )

    def _made(self, samples: JoinedSamples, *, publish: bool, records: int, ended: bool, digest: bytes = b"") -> Step:
        return Step(
            self._step,
            samples.batch(self.schema, self._job.train.group_by, self._labels),
            samples.keys,
            self._watermark_ms,
            publish,
            records,
            ended,
            digest,
            samples.strings(self.schema, self._labels),
        )

    def _lanes(self) -> list[Lane]:
        return [inlet.lanes[partition] for inlet in self._inlets for partition in sorted(inlet.lanes)]

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything that the next step depends on besides the streams and the journal; the latter is durable then.

        Canonical: the same state gives the same bytes.
        """
        self._journal.sync()
        self._committable = self._positions()
        lanes: dict[str, dict[int, LaneState]] = {
            inlet.name: {p: lane_state(lane) for p, lane in sorted(inlet.lanes.items())} for inlet in self._inlets
        }
        state = ReaderState(
            STATE_VERSION,
            self._step,
            self._records,
            self._watermark_ms,
            self._ended,
            self._unpublished,
            lanes,
            self._joiner.state(),
            self._letters.state(),
            msgspec.msgpack.encode(self.schema.features),
            self._labels.names,
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Stand where `state` gave ``data``; the journal's later steps come next.

        Raises VersionError or CorruptError for bytes that are no state, or are of a step that the journal lacks, and
        ConfigError for those of a job with other streams.
        """
        state = decode_reader_state(data)
        if state.step > self._journal.last_step:
            raise CorruptError(
                f"the snapshot is of step {state.step}, but the step journal {self._journal.folder} ends at step "
                f"{self._journal.last_step}: restore the journal that belongs to it"
            )
        if set(state.lanes) != {inlet.name for inlet in self._inlets}:
            raise ConfigError(f"the snapshot is of the streams {sorted(state.lanes)}; the job's input names others")
        self._joiner.restore(refitted(state, self.schema, self._labels, self._joiner))
        for inlet in self._inlets:
            inlet.lanes = {}
            for partition, kept in state.lanes[inlet.name].items():
                restore_lane(inlet, partition, kept)
        self._step, self._records, self._watermark_ms = state.step, state.records, state.watermark_ms
        self._ended, self._unpublished = state.ended, state.unpublished
        self._letters.restore(state.letters, self._positions())
        self._live = False
        self._entries = self._recorded = None

    def begin_at(self, positions: Positions) -> None:
        """Begin the run at these offsets, by `Source.name` and partition, with a model that is to be published.

        What a journalled step says of where the run began counts for more.
        """
        self._unpublished = True
        for inlet in self._inlets:
            inlet.source.seek(positions.get(inlet.source.name, {}))

    def _positions(self) -> Positions:
        return {inlet.name: {p: lane.position for p, lane in sorted(inlet.lanes.items())} for inlet in self._inlets}

    def commit(self) -> None:
        """Tell the streams' own book-keeping (Kafka groups) the positions of the last `state`, which is now kept."""
        for inlet in self._inlets:
            if positions := self._committable.get(inlet.name):
                inlet.source.commit(positions)

    def trim(self, before_step: int) -> None:
        """Let the journal forget steps before ``before_step``, unless it is another run's that is only replayed."""
        if not self._replay_only and not self._job.train.keep_journal:
            self._journal.trim(before_step)

    def progress(self) -> Progress:
        """A look at everything that a person asks a running job."""
        known = self._watermark_ms != WATERMARK_START
        missing = {inlet.source.name: why for inlet in self._inlets if (why := inlet.source.missing) is not None}
        return Progress(
            step=self._step,
            records=self._records,
            lag=None if missing else sum(inlet.lag() for inlet in self._inlets),
            missing=missing,
            watermark_ms=self._watermark_ms,
            watermark_lag_ms=max(0, time.time_ns() // 1_000_000 - self._watermark_ms) if known else 0,
            waiting_bytes=self._joiner.total_bytes,
            skipped=sum(inlet.source.skipped for inlet in self._inlets),
            joined=self._joiner.counters,
            dead_letters=dict(sorted(self._letters.counts.items())),
            lost_letters=self._letters.lost,
            held=sum(len(lane.held) for lane in self._lanes()),
            jumps=self._gate.jumps + self._watch.ahead,
            stalled_s=self._watch.stalled_s(self._clock()),
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


def _uncovered(inlet: Inlet, entry: StepEntry) -> list[int]:
    """Partitions of which ``entry`` takes records that are not polled yet."""
    return [p for p, end in entry.ends[inlet.name].items() if inlet.lanes[p].polled < end]
