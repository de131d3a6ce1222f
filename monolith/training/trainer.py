"""The training loop: steps in, deltas and snapshots out. Read `Trainer.run` aloud and you know the system.

What makes it exact: which records make a step, its watermark and whether it publishes come from the step journal, so
a step is a function of the state before it. A snapshot holds all of that state at one step. After a crash the newest
snapshot is restored, the journalled steps behind it run again to the same bits, and publish the same sequence numbers
again, which the store knows already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.deciding import Settings, settings_of
from monolith.config.load import job_json
from monolith.errors import ConfigError, CorruptError, NoSamplesError, UnavailableError
from monolith.events import WATERMARK_START
from monolith.serving.publisher import Publisher
from monolith.streaming.reader_state import STATE_FILE
from monolith.streaming.runner import Step
from monolith.streaming.steps import StepReader
from monolith.tables.batch import Batch
from monolith.tables.delta import ModelDelta
from monolith.tables.kept_strings import KeptStrings
from monolith.training.advisor import Advisor
from monolith.training.history import History
from monolith.training.learner import Learner
from monolith.training.milestones import Milestones
from monolith.training.snapshot import (
    HISTORY_SINCE,
    PARTS_VERSION,
    RANKS,
    SNAPSHOT_VERSION,
    STRINGS,
    Content,
    LostFileError,
    Manifest,
    Snapshot,
    Snapshots,
)
from monolith.training.start import Start
from monolith.training.status import Status, StatusFile
from monolith.training.task_metrics import JobMetrics

log = logging.getLogger(__name__)

INGESTION_SAMPLE = 256  # ingestion times that travel with a delta, at most
DRAIN_S = 60.0  # for a store that is away when the job ends
STOP_S = 5.0  # and when the trainer is told to stop: whoever does so waits for the snapshot
MOST_INGESTED = 1 << 16  # and that are kept while the store is away


class _Cut(NamedTuple):
    """What a delta says of itself besides its contents."""

    sequence: int
    step: int
    watermark_ms: int
    ingested_ms: npt.NDArray[np.int64]
    digest: str


class Trainer:
    """Owns a learner and moves it along a stream. One thread; `stop` may be called from a signal handler."""

    def __init__(
        self,
        learner: Learner,
        steps: StepReader,
        snapshots: Snapshots,
        *,
        lineage: str,
        settings: Settings | None = None,
        publisher: Publisher | None = None,
        status: StatusFile | None = None,
    ) -> None:
        """``settings``: those that decide bits, as the step journal has them; None: the job's."""
        self.learner, self.steps, self.snapshots = learner, steps, snapshots
        self.lineage, self.publisher, self.status = lineage, publisher, status
        self.metrics = JobMetrics(learner.job.labels, learner.job.train.window_samples)
        self.history = History(settings or settings_of(learner.job), learner.division)
        train = learner.job.train
        self.milestones = Milestones(
            snapshots.directory.parent, every_s=train.milestone_every_s, keep=train.keep_milestones
        )
        self.advisor = Advisor(learner.features)
        self.strings = KeptStrings(learner.features)
        self.step, self.sequence, self.watermark_ms = 0, 0, WATERMARK_START
        self._started = False  # the run began from a model
        self._kept_step = 0  # the newest snapshot's
        self._clean = True  # nothing changed since the last cut
        self._owes = False  # a publish, as soon as that can be
        self._ingested: list[int] = []
        self._freshness_ms: float | None = None  # of the newest delta that the store took
        self._stopping = False
        self._next_snapshot = time.monotonic() + learner.job.train.snapshot_every_s

    def run(self) -> None:
        """Train until the stream ends, other settings come, or `stop` is called; then publish and keep a snapshot.

        Both are of the same moment, unless the store is away, or other journalled steps come next: then the trainer
        that makes those publishes. Raises `UnavailableError` if the stream ended and the store does not take what it
        lacks: then run again; and `NoSamplesError` if it ended and nothing was trained: then nothing is published and
        no snapshot is kept.
        """
        ended = False
        while not (ended or self._stopping or self.steps.at_switch):
            step = self.steps.next(timeout_s=0.1)
            if step is not None:
                ended = step.ended
                if step.number > self.step:  # else it only says that the streams are at their end
                    self.advance(step)
            elif self.publisher is not None:
                self._tend(self.publisher)
            if self.publisher is not None:
                self.publisher.beat()
            self.learner.beat()
            if time.monotonic() >= self._next_snapshot:
                self.snapshot()
            self._report(ended=False)
        if ended and self._owes and self.publisher is not None and (closing := self._closing_step()) is not None:
            self.advance(closing)
        if ended and self._is_blank:
            self._report(ended=True)
            raise NoSamplesError(self._fruitless())
        switches = self.steps.at_switch and not self._stopping
        try:
            if not (ended or switches) and self.publisher is not None:
                self._publish_last(self.publisher)
        finally:
            self.snapshot()
        try:
            if ended and self.publisher is not None:
                self._hand_over(self.publisher)
        finally:
            self._report(ended=not switches)

    @property
    def _is_blank(self) -> bool:
        """Whether the model has learnt nothing yet, so that nobody is to get it."""
        return not (self.metrics.samples or self._started)

    def _fruitless(self) -> str:
        """Why there was nothing to train on."""
        streams = self.steps.progress()
        if not streams.records:
            return "the streams ended and hold no record: is `input` right, and has anybody written to them?"
        dropped = ", ".join(f"{what} {count:,}" for what, count in streams.dropped().items())
        return (
            f"the streams ended, and none of their {streams.records:,} records made a sample "
            f"({dropped or 'none was refused'}): nothing was trained and nothing is published. `monolith inspect` of "
            f"`input.dead_letters` shows each refused record with its reason. {self.learner.job.state} remembers these "
            f"records as read: give a new `state` to read them again"
        )

    def _hand_over(self, publisher: Publisher) -> None:
        """Nothing comes after this: see that the store has everything, also what a process before this one left."""
        publisher.publish(self.sequence, self._delta)
        if publisher.drain(timeout_s=DRAIN_S):
            return
        held = publisher.held_sequence
        raise UnavailableError(
            f"the job is done, but not published: the store did not take sequence {self.sequence} in {DRAIN_S:.0f} s "
            f"(known to be there: {held or 'nothing'}). Nothing is lost, {self.snapshots.path(self.step)} has it all: "
            f"start the same command again when the store is back, it trains nothing anew and publishes the rest"
        )

    def _tend(self, publisher: Publisher) -> None:
        """In quiet times: see that the store still has everything. Where rows changed since, that takes a cut first."""
        if self._is_blank:
            return
        if self._clean:
            publisher.tend(self.sequence, self._delta)
        elif (self._owes or publisher.lacks(self.sequence)) and (step := self._closing_step()) is not None:
            self.advance(step)

    def _publish_last(self, publisher: Publisher) -> None:
        """See that the store has all that the snapshot to come will hold; give up after `STOP_S` and a last try."""
        if self._is_blank:
            return
        deadline = time.monotonic() + STOP_S
        if self._clean:
            publisher.publish(self.sequence, self._delta)
        elif (step := self._closing_step()) is not None:
            self.advance(step)
        else:
            return
        if not publisher.drain(timeout_s=max(0.0, deadline - time.monotonic())):
            log.warning("stopped without the store: the next start publishes what it lacks sequence=%d", self.sequence)

    def _closing_step(self) -> Step | None:
        """As the steps give it, once it is known that it can be made: the journal is to have none that was not."""
        self.learner.check_all_there()
        return self.steps.closing_step()

    def stop(self) -> None:
        """Finish the step at hand, then leave `run` with a last publish and a snapshot."""
        self._stopping = True

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def advance(self, step: Step) -> None:
        """Train on one step's samples in batches, expire what is idle, publish if the step says so."""
        if step.example is not None and len(step.example):
            self.advisor.look(step.example)
        batches = [*step.batch.pieces(self.learner.job.train.batch_size), None]
        for batch, following in pairwise(batches):
            if batch is not None:
                self._train(batch, following)
        self.watermark_ms = step.watermark_ms
        removed = self.learner.advance(self.watermark_ms, self.learner.job.train.sweep_rows)
        if self.strings.features:
            self.strings.take(step.strings, self.learner.tables)
        self.step = step.number
        self.history.extend(step.digest)
        self._clean = self._clean and not len(step.batch) and not removed
        if step.publish:
            self.sequence, self._clean, self._owes = self.learner.cut(), True, False
            self.history.cut(self.sequence)
            self._publish()

    def pass_over(self, step: Step) -> None:
        """Count a step as made whose samples were trained on, as far as they ever will be; the tables stay."""
        self.watermark_ms = step.watermark_ms
        if self.strings.features:
            self.strings.take(step.strings, self.learner.tables)
        self.step = step.number
        self.history.extend(step.digest)
        if step.publish:
            self.sequence += 1
            self.history.cut(self.sequence)

    def went_on(self, digest: bytes) -> None:
        """The rows are no longer those of the steps alone, but also of what ``digest`` names: no store has them yet."""
        self.history.extend(digest)
        self._clean, self._started = False, True
        self.owe()

    def owe(self) -> None:
        """Have the rows published as soon as there is time, whether or not samples come."""
        self._owes = True

    def _train(self, batch: Batch, following: Batch | None) -> None:
        scores = self.learner.step(batch, following)
        self.metrics.update(batch, scores)
        self._ingested.extend(batch.ingestion_time_ms.tolist())

    def _publish(self) -> None:
        if self.publisher is None or self._is_blank:
            self._ingested.clear()
            return
        self.publisher.publish(self.sequence, self._delta)
        if self.publisher.held_sequence >= self.sequence:
            if self._ingested:
                self._freshness_ms = time.time_ns() / 1e6 - float(np.median(self._ingested))
            self._ingested.clear()
        elif len(self._ingested) > MOST_INGESTED:  # the store is away: keep every other one
            self._ingested = self._ingested[::2]

    def _delta(self, since: int) -> ModelDelta:
        ingested = np.sort(np.array(self._ingested, np.int64))
        stride = max(1, -(-len(ingested) // INGESTION_SAMPLE))
        digest = self.history.digest(self.sequence) or ""
        cut = _Cut(self.sequence, self.step, self.watermark_ms, ingested[::stride], digest)
        return self.learner.delta(since, **cut._asdict())

    def snapshot(self) -> None:
        """Keep the state after the last step; only then are the stream's positions committed for lag tools."""
        if self.step == self._kept_step:
            return
        manifest = Manifest(
            version=PARTS_VERSION if self.learner.ranks else SNAPSHOT_VERSION,
            model=self.learner.job.name,
            lineage=self.lineage,
            step=self.step,
            sequence=self.sequence,
            job=msgspec.json.decode(job_json(self.learner.job)),
        )
        try:
            self.snapshots.write(manifest, self._contents(whole=False))
        except LostFileError as lost:
            log.info("no earlier snapshot has the file, all of it is written again name=%s", lost)
            self.snapshots.write(manifest, self._contents(whole=True))
        self.steps.commit()
        self.steps.trim(self.snapshots.steps()[0] + 1)  # the oldest kept may be restored, should the newer be damaged
        self._kept_step = self.step
        self.milestones.offer(self.snapshots.path(self.step))
        self._next_snapshot = time.monotonic() + self.learner.job.train.snapshot_every_s
        log.info("snapshot step=%d sequence=%d", self.step, self.sequence)

    def _contents(self, *, whole: bool) -> dict[str, Content]:
        contents: dict[str, Content] = {
            "tables": self.learner.save_tables,
            "dense.safetensors": self.learner.dense_state(),
            **self.steps.save(whole=whole),
            "metrics.bin": self.metrics.state(),
            "history.bin": self.history.state(),
            "clock.bin": msgspec.msgpack.encode((self.watermark_ms, self._clean)),
        }
        if self.strings.features:
            contents[STRINGS] = self.strings.state(self.learner.tables)
        if self.learner.ranks:
            contents[RANKS] = msgspec.json.encode(self.learner.ranks)
        return contents

    def restore(self, snapshot: Snapshot, load_model: Callable[[Snapshot], None] | None = None) -> None:
        """Be what wrote `snapshot`. Raises `ConfigError` for another model's or run's, `CorruptError` for damage.

        ``load_model`` loads the learner's tables and weights, where they are not just the snapshot's.
        """
        manifest = snapshot.manifest
        if manifest.model != self.learner.job.name or manifest.lineage != self.lineage:
            raise ConfigError(
                f"{snapshot.path} belongs to model {manifest.model!r}, run {manifest.lineage}; this job is "
                f"{self.learner.job.name!r}, run {self.lineage}. Give the job a state folder of its own."
            )
        (load_model or self._load_model)(snapshot)
        self.steps.load(snapshot)
        self.metrics.restore(snapshot.read("metrics.bin"))
        if STRINGS in snapshot.manifest.files:
            self.strings.restore(snapshot.read(STRINGS))
        self.watermark_ms, self._clean = _decode_clock(snapshot)
        self.step, self.sequence = manifest.step, manifest.sequence
        self._restore_history(snapshot)
        self._kept_step = self.step
        log.info("restored step=%d sequence=%d from=%s", self.step, self.sequence, snapshot.path)

    def _load_model(self, snapshot: Snapshot) -> None:
        self.learner.load_tables(snapshot.path / "tables")
        self.learner.load_dense_state(snapshot.read("dense.safetensors"))

    def begin_from(self, start: Start) -> None:
        """Begin the run with a fitted model, or another run's, at the offsets that it names."""
        self._load_model(start.snapshot)
        if STRINGS in start.snapshot.manifest.files:
            self.strings.restore(start.snapshot.read(STRINGS))
        if STATE_FILE in start.snapshot.manifest.files:
            self.steps.begin_after(start.snapshot)
        else:
            self.steps.begin_at(start.about.positions)
        self.sequence, self._started = start.snapshot.manifest.sequence, True
        self.watermark_ms = start.about.watermark_ms
        if self.sequence:
            self.history.begin_after(self.sequence, f"start {start.snapshot.manifest.crc32}".encode())
        log.info("begins from=%s origin=%s", start.snapshot.path, start.about.origin)

    def _restore_history(self, snapshot: Snapshot) -> None:
        manifest = snapshot.manifest
        if manifest.version < HISTORY_SINCE:
            self.history.begin_after(manifest.sequence, f"{snapshot.path.name} {manifest.crc32}".encode())
        else:
            self.history.restore(snapshot.read("history.bin"), f"{snapshot.path / 'history.bin'}")

    def _report(self, *, ended: bool) -> None:
        if self.status is not None and (ended or self.status.due()):
            self.status.write(self._status(ended))

    def _status(self, ended: bool) -> Status:
        streams = self.steps.progress()
        return Status(
            model=self.learner.job.name,
            lineage=self.lineage,
            step=self.step,
            sequence=self.sequence,
            stored_sequence=self.publisher.held_sequence if self.publisher else 0,
            samples=self.metrics.samples,
            lag=streams.lag,
            watermark_ms=self.watermark_ms,
            ended=ended,
            metrics=self.metrics.report(),
            tables={name: msgspec.to_builtins(table.stats()) for name, table in self.learner.tables.items()},
            streams=streams,
            snapshot_step=self._kept_step,
            freshness_ms=self._freshness_ms,
            warnings=self.advisor.review(self.learner.tables, streams),
        )


def _decode_clock(snapshot: Snapshot) -> tuple[int, bool]:
    try:
        return msgspec.msgpack.decode(snapshot.read("clock.bin"), type=tuple[int, bool])
    except msgspec.DecodeError as error:
        raise CorruptError(f"{snapshot.path / 'clock.bin'} cannot be read: {error}") from error
