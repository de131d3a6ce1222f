"""Running a step: a journal entry and the streams' records through the gate and the joiner to samples.

What a step gives is a function of the state before it, of the records and of the entry, and of nothing else; whether
the entry was cut a moment ago or before a crash makes no difference here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from monolith.config import JobConfig
from monolith.errors import ConfigError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.gate import Gate
from monolith.streaming.joined import JoinedSamples, Key
from monolith.streaming.joiner import Joiner, OnShown
from monolith.streaming.journal import Positions, StepEntry
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.lanes import Inlet, Lane
from monolith.streaming.live import Standing
from monolith.streaming.progress import Progress
from monolith.streaming.reader_state import STATE_VERSION, LaneState, ReaderState, lane_state, restore_lane
from monolith.streaming.refit import refitted
from monolith.streaming.step_digest import StepDigest
from monolith.streaming.watch import Watch
from monolith.tables.batch import Batch
from monolith.tables.schema import FeatureSchema, card_features

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
        ignore = job.input.unknown_features == "ignore"
        self.schema = FeatureSchema(card_features(job), ignore_unknown=ignore, keep_strings=True)
        self._labels = LabelBlocks(job)
        tasks = job.labels if job.input.samples is None else ()
        self.joiner = Joiner(job.join, self._labels.size + self.schema.head_bytes, on_shown, tasks)
        self.gate = Gate(job.input, self.joiner, letters)
        self._watch = Watch(round(job.input.max_out_of_order_s * 1000))
        self.step = 0
        self._records = 0
        self.watermark_ms = WATERMARK_START
        self.ended = False
        self.unpublished = False  # samples came since the last step that publishes

    def run(self, entry: StepEntry, *, ends: bool) -> Step:
        """Do what ``entry`` says: a function of the state before, the streams and the entry, and of nothing else.

        ``ends``: nothing comes after it. A run that came to its end may have been gone on with.
        """
        records, made_from = 0, StepDigest(entry)
        for inlet in self._inlets:
            for partition, end in entry.ends[inlet.name].items():
                lane = inlet.lanes[partition]
                taken = lane.take(end)
                made_from.add(taken)
                records += self.gate.take(lane, taken, entry.agree)
        lanes, ended = self.lanes(), entry.watermark_ms == WATERMARK_END
        if ended:
            newest_ms = self.gate.end(lanes, entry.agree)
        else:
            self.gate.settle(lanes, max(entry.watermark_ms, entry.released_ms))
            newest_ms = max((lane.clock.ms for lane in lanes), default=WATERMARK_START)
        samples = self.joiner.advance(
            entry.watermark_ms, released_ms=entry.released_ms, newest_ms=max(newest_ms, UNDATED_MS)
        )
        self.gate.bury_late_actions()
        self._letters.flush()
        self.watermark_ms = max(self.watermark_ms, newest_ms) if ended else entry.watermark_ms
        self._watch.look(lanes, entry, records, self._clock())
        self.step, self.ended = entry.step, entry.ended
        self._records += records
        self.unpublished = (self.unpublished or bool(len(samples))) and not entry.publish
        return self._made(samples, publish=entry.publish, records=records, ended=ends, digest=made_from.digest())

    def nothing_more(self) -> Step:
        """A step that is none: it says that the run is at its end, and leaves everything as it is."""
        return self._made(self.joiner.nothing(), publish=False, records=0, ended=True)

    def _made(self, samples: JoinedSamples, *, publish: bool, records: int, ended: bool, digest: bytes = b"") -> Step:
        return Step(
            self.step,
            samples.batch(self.schema, self._job.train.group_by, self._labels),
            samples.keys,
            self.watermark_ms,
            publish,
            records,
            ended,
            digest,
            samples.strings(self.schema, self._labels),
        )

    def lanes(self) -> list[Lane]:
        """Every lane, by stream and partition."""
        return [inlet.lanes[partition] for inlet in self._inlets for partition in sorted(inlet.lanes)]

    def positions(self) -> Positions:
        """The next offset that a step takes, by stream and partition."""
        return {inlet.name: {p: lane.position for p, lane in sorted(inlet.lanes.items())} for inlet in self._inlets}

    def standing(self) -> Standing:
        """What a cutter must know of the steps so far."""
        return Standing(
            step=self.step,
            watermark_ms=self.watermark_ms,
            held_bytes=self.joiner.total_bytes,
            due_ms=self.joiner.due_ms(),
            pending_ms=self.joiner.pending_ms(),
            unpublished=self.unpublished,
        )

    def state(self, joiner: bytes) -> bytes:
        """Everything that the next step depends on, with what was kept of the joiner; canonical."""
        lanes: dict[str, dict[int, LaneState]] = {
            inlet.name: {p: lane_state(lane) for p, lane in sorted(inlet.lanes.items())} for inlet in self._inlets
        }
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
            self._labels.names,
        )
        return msgspec.msgpack.encode(state)

    def restore(self, state: ReaderState, read: Callable[[str], bytes]) -> None:
        """Stand where `state` was taken; ``read`` reads the files of the joiner's segments.

        Raises ConfigError for the state of a job with other streams, CorruptError for one that does not fit together.
        """
        self._stand(state, read)
        self.step, self._records, self.unpublished = state.step, state.records, state.unpublished
        self._letters.restore(state.letters, self.positions())

    def begin_after(self, state: ReaderState, read: Callable[[str], bytes]) -> None:
        """Stand before the first step of a run that goes on in the streams where `state` of another one was taken.

        Its model is to be published. Raises as `restore`.
        """
        self._stand(state, read)
        self.unpublished = True

    def _stand(self, state: ReaderState, read: Callable[[str], bytes]) -> None:
        if set(state.lanes) != {inlet.name for inlet in self._inlets}:
            raise ConfigError(f"the snapshot is of the streams {sorted(state.lanes)}; the job's input names others")
        self.joiner.restore(refitted(state, self.schema, self._labels, self.joiner, read))
        for inlet in self._inlets:
            inlet.lanes = {}
            for partition, kept in state.lanes[inlet.name].items():
                restore_lane(inlet, partition, kept)
        self.watermark_ms, self.ended = state.watermark_ms, state.ended

    def progress(self) -> Progress:
        """A look at everything that a person asks a running job."""
        known = self.watermark_ms != WATERMARK_START
        missing = {inlet.source.name: why for inlet in self._inlets if (why := inlet.source.missing) is not None}
        return Progress(
            step=self.step,
            records=self._records,
            lag=None if missing else sum(inlet.lag() for inlet in self._inlets),
            missing=missing,
            watermark_ms=self.watermark_ms,
            watermark_lag_ms=max(0, time.time_ns() // 1_000_000 - self.watermark_ms) if known else 0,
            waiting_bytes=self.joiner.total_bytes,
            skipped=sum(inlet.source.skipped for inlet in self._inlets),
            joined=self.joiner.counters,
            dead_letters=dict(sorted(self._letters.counts.items())),
            lost_letters=self._letters.lost,
            held=sum(len(lane.held) for lane in self.lanes()),
            jumps=self.gate.jumps + self._watch.ahead,
            stalled_s=self._watch.stalled_s(self._clock()),
            positions=self.positions(),
            ends={inlet.name: inlet.source.end_position() for inlet in self._inlets},
        )
