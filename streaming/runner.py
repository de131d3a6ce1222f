"""Running a step: a journal entry and the streams' records through the gate and the joiner to samples.

What a step gives is a function of the state before it, of the records and of the entry, and of nothing else; whether
the entry was cut a moment ago or before a crash makes no difference here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from monolith.config import JobConfig
from monolith.errors import ConfigError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.intake import Intake, Reached, Taken, Waits
from monolith.streaming.joined import JoinedSamples, Key
from monolith.streaming.joiner import OnShown
from monolith.streaming.journal import Positions, StepEntry
from monolith.streaming.lanes import Inlet, Lane
from monolith.streaming.live import Standing
from monolith.streaming.marks import expect_same
from monolith.streaming.progress import Progress
from monolith.streaming.reader_state import STATE_FILE, STATE_VERSION, LaneState, ReaderState, lane_states
from monolith.streaming.watch import Watch
from monolith.tables.batch import Batch
from monolith.tables.schema import FeatureSchema

Files = dict[str, bytes | Callable[[Path], Any] | None]  # of a snapshot; see `StepReader.save`

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
    strings: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # feature -> id -> string, where kept
    example: Batch | None = None  # samples with their features: those of ``batch``, or of this process's partitions


class Made(NamedTuple):
    """A step's samples; see `Step`."""

    batch: Batch
    keys: Sequence[Key]
    strings: Mapping[str, Mapping[int, str]]
    example: Batch | None


class KeptFiles(Protocol):
    """A snapshot, to whoever goes on from it."""

    @property
    def path(self) -> Path:
        """Its folder."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises CorruptError where there is none."""


class Runner:
    """Everything that a step depends on besides the streams and the journal. Owned by one `StepReader`."""

    def __init__(
        self,
        job: JobConfig,
        inlets: list[Inlet],
        letters: DeadLetters,
        clock: Callable[[], float],
        on_shown: OnShown | None,
    ) -> None:
        self._job, self._inlets, self._letters, self._clock = job, inlets, letters, clock
        self._intake = Intake(job, inlets, letters, on_shown)
        self._watch = Watch(round(job.input.max_out_of_order_s * 1000))
        self.step = 0
        self._records = 0
        self.watermark_ms = WATERMARK_START
        self.ended = False
        self.unpublished = False  # samples came since the last step that publishes

    @property
    def schema(self) -> FeatureSchema:
        """The job's features."""
        return self._intake.schema

    def check(self, entry: StepEntry) -> None:
        """Look at a step that is to be written down. Raises ConfigError for streams that are not what the job says."""
        self._intake.gate.check_units(self._inlets, entry)
        if self._job.input.co_partitioned:
            _check_partitions(self._inlets)

    def run(self, entry: StepEntry, *, ends: bool) -> Step:
        """Do what ``entry`` says: a function of the state before, the streams and the entry, and of nothing else.

        ``ends``: nothing comes after it. A run that came to its end may have been gone on with.
        """
        taken = self._take(entry)
        lanes, ended = self.lanes(), entry.watermark_ms == WATERMARK_END
        newest_ms = self._intake.gate.newest_ms(lanes, ended=ended)
        made = self._join(entry, Reached(max(newest_ms, UNDATED_MS), taken.newest_ingestion_ms, taken.last_ms))
        self._letters.flush()
        self.watermark_ms = max(self.watermark_ms, newest_ms) if ended else entry.watermark_ms
        self._watch.look(lanes, entry, taken.records, self._clock())
        self.step, self.ended = entry.step, entry.ended
        self._records += taken.records
        self.unpublished = (self.unpublished or bool(len(made.batch))) and not entry.publish
        return self._step(made, publish=entry.publish, records=taken.records, ended=ends, digest=taken.digest)

    def _take(self, entry: StepEntry) -> Taken:
        return self._intake.take(entry)

    def _join(self, entry: StepEntry, reached: Reached) -> Made:
        return self._made(self._intake.join(entry, reached))

    def _made(self, samples: JoinedSamples) -> Made:
        batch = self._intake.batch(samples)
        return Made(batch, samples.keys, samples.strings(self.schema, self._intake.labels), batch)

    def _waits(self) -> Waits:
        return self._intake.waits()

    def nothing_more(self) -> Step:
        """A step that is none: it says that the run is at its end, and leaves everything as it is."""
        return self._step(self._made(self._intake.joiner.nothing()), publish=False, records=0, ended=True)

    def _step(self, made: Made, *, publish: bool, records: int, ended: bool, digest: bytes = b"") -> Step:
        return Step(
            self.step,
            made.batch,
            made.keys,
            self.watermark_ms,
            publish,
            records,
            ended,
            digest,
            made.strings,
            made.example,
        )

    def lanes(self) -> list[Lane]:
        """Every lane, by stream and partition."""
        return [inlet.lanes[partition] for inlet in self._inlets for partition in sorted(inlet.lanes)]

    def positions(self) -> Positions:
        """The next offset that a step takes, by stream and partition."""
        return {inlet.name: {p: lane.position for p, lane in sorted(inlet.lanes.items())} for inlet in self._inlets}

    def standing(self) -> Standing:
        """What a cutter must know of the steps so far."""
        waits = self._waits()
        return Standing(
            step=self.step,
            watermark_ms=self.watermark_ms,
            held_bytes=waits.held_bytes,
            due_ms=waits.due_ms,
            pending_ms=waits.pending_ms,
            unpublished=self.unpublished,
        )

    def state(self) -> bytes:
        """Everything that the next step depends on; canonical."""
        return self._state(self._intake.joiner.state(), lane_states(self._inlets))

    def save(self, *, whole: bool) -> Files:
        """As `state`, as the files of a snapshot; see `StepReader.save`."""
        saved = self._intake.joiner.save(whole=whole)
        return {STATE_FILE: self._state(saved.index, lane_states(self._inlets)), **saved.files}

    def _state(self, joiner: bytes, lanes: dict[str, dict[int, LaneState]]) -> bytes:
        state = ReaderState(
            STATE_VERSION,
            self.step,
            self._records,
            self.watermark_ms,
            self.ended,
            self.unpublished,
            lanes,
            joiner,
            self._letters.state(),
            msgspec.msgpack.encode(self.schema.features),
            self._intake.labels.names,
        )
        return msgspec.msgpack.encode(state)

    def restore(self, state: ReaderState, kept: KeptFiles) -> None:
        """Stand where `state` was taken; ``kept`` has the files of the joiner's segments.

        Raises ConfigError for the state of a job with other streams, CorruptError for one that does not fit together.
        """
        self._stand(state, kept)
        self.watermark_ms, self.ended = state.watermark_ms, state.ended
        self.step, self._records, self.unpublished = state.step, state.records, state.unpublished
        self._letters.restore(state.letters, self.positions())

    def begin_after(self, state: ReaderState, kept: KeptFiles) -> None:
        """Stand before the first step of a run that goes on in the streams where `state` of another one was taken.

        Its model is to be published. Raises as `restore`.
        """
        self._stand(state, kept)
        self.watermark_ms, self.ended = state.watermark_ms, state.ended
        self.unpublished = True

    def _stand(self, state: ReaderState, kept: KeptFiles) -> None:
        expect_same(self._inlets, kept.path)
        self._intake.stand(state, kept.read)

    def close(self) -> None:
        """Let go of the streams."""
        for inlet in self._inlets:
            inlet.source.close()

    def progress(self) -> Progress:
        """A look at everything that a person asks a running job."""
        known, waits = self.watermark_ms != WATERMARK_START, self._waits()
        missing = {inlet.source.name: why for inlet in self._inlets if (why := inlet.source.missing) is not None}
        return Progress(
            step=self.step,
            records=self._records,
            lag=None if missing else sum(inlet.lag() for inlet in self._inlets),
            missing=missing,
            watermark_ms=self.watermark_ms,
            watermark_lag_ms=max(0, time.time_ns() // 1_000_000 - self.watermark_ms) if known else 0,
            waiting_bytes=waits.held_bytes,
            skipped=sum(inlet.source.skipped for inlet in self._inlets),
            joined=waits.counters,
            crossed=waits.crossed,
            dead_letters=dict(sorted(self._letters.counts.items())),
            lost_letters=self._letters.lost,
            held=sum(len(lane.held) for lane in self.lanes()),
            jumps=self._jumps() + self._watch.ahead,
            stalled_s=self._watch.stalled_s(self._clock()),
            positions=self.positions(),
            ends={inlet.name: inlet.source.end_position() for inlet in self._inlets},
        )

    def _jumps(self) -> int:
        return self._intake.gate.jumps


def _check_partitions(inlets: Sequence[Inlet]) -> None:
    """Raise ConfigError unless all streams have partitions of the same numbers."""
    said = {inlet.name: (inlet.source.name, sorted(inlet.lanes)) for inlet in inlets}
    if len({tuple(partitions) for _, partitions in said.values()}) > 1:
        each = "; ".join(f"{stream}: {name} has {partitions}" for stream, (name, partitions) in said.items())
        raise ConfigError(
            f"input.co_partitioned: the streams have other partitions ({each}). Give both the same number, with a "
            f"request's records in partitions of one number, or set input.co_partitioned to false"
        )
