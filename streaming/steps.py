"""Journal steps: the one place where timing is turned into facts, and the only thing of this package a trainer sees.

`StepReader.next` polls the job's streams, cuts a step, *writes down* what it cut (which records, which watermark,
whether to publish) and then runs it: records -> joiner -> samples. After a crash `restore` puts it back where a
snapshot was taken, and the steps behind that come from the journal instead of the clock, by the same code: same
samples, same order, same watermark, same publishing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Literal

from monolith.config import JobConfig
from monolith.errors import CorruptError
from monolith.events import WATERMARK_START
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.divided import DividedRunner, PartReaders
from monolith.streaming.inlets import open_inlets
from monolith.streaming.joiner import OnShown
from monolith.streaming.joiner_segments import no_files
from monolith.streaming.journal import Journal, Positions, StepEntry, UnwrittenJournal
from monolith.streaming.lanes import Inlet
from monolith.streaming.live import WAIT_S, LiveCutter
from monolith.streaming.marks import keep_marks
from monolith.streaming.progress import Progress
from monolith.streaming.read_ahead import ReadAhead
from monolith.streaming.reader_state import STATE_FILE, decode_reader_state
from monolith.streaming.rejects import Rejects
from monolith.streaming.runner import Files, KeptFiles, Runner, Step
from monolith.tables.schema import FeatureSchema

log = logging.getLogger(__name__)


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
        until: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        cutter: LiveCutter | None = None,
        on_shown: OnShown | None = None,
        readers: PartReaders | None = None,
    ) -> None:
        """Stand before the first step. `open` builds the parts from the job.

        ``until`` is the last step that this job makes: those after it are made under other settings, by another
        reader. ``cutter`` proposes the steps that the journal does not hold. ``on_shown`` is the joiner's.
        ``readers`` are the processes that read and join, each its partitions; None: this one does all.
        """
        self._job = job
        self._inlets = inlets
        self._journal = journal
        self._letters = letters
        self._replay_only = replay_only
        self._until = until
        self._clock = clock
        self._runner = (
            Runner(job, inlets, letters, clock, on_shown)
            if readers is None
            else DividedRunner(job, inlets, letters, clock, readers)
        )
        self._rejects = Rejects(job.input.max_reject_share, job.train.window_samples)
        self._live = False
        self._cutter = cutter or LiveCutter(job, inlets, clock)
        self._ahead = ReadAhead(inlets if readers is None else [], job.train.step_records)
        self._committable: Positions = {}
        self._recorded: StepEntry | None = None  # the journalled step that is next
        self._entries: Iterator[StepEntry] | None = None  # those after it; None: where to begin is not known yet

    @classmethod
    def open(
        cls,
        job: JobConfig,
        journal: Path | Journal,
        *,
        replay_only: bool = False,
        until: int | None = None,
        on_shown: OnShown | None = None,
        readers: PartReaders | None = None,
    ) -> StepReader:
        """Open the job's streams, its dead letters and its journal: a folder, or an open one that is now the reader's.

        With ``replay_only`` the steps are those of the journal, the last one is `Step.ended`, and nothing is written.
        ``readers`` have opened the streams already.
        Raises ConfigError for URLs that cannot be, for a stream that is not there (unless the job follows it), and for
        a journal that another process has open; CorruptError for a damaged journal.
        """
        if isinstance(journal, Path):
            journal = Journal(journal, read_only=replay_only)
        try:
            inlets = open_inlets(job) if readers is None else readers.inlets
            letters = DeadLetters(None if replay_only else job.input.dead_letters)
        except BaseException:
            journal.close()
            if readers is not None:
                readers.close()
            raise
        return cls(
            job, inlets, journal, letters, replay_only=replay_only, until=until, on_shown=on_shown, readers=readers
        )

    @property
    def schema(self) -> FeatureSchema:
        """The job's features."""
        return self._runner.schema

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

    @property
    def at_switch(self) -> bool:
        """Whether the next step is made under other settings, and so not by this reader."""
        return self._until is not None and self._runner.step >= self._until

    def publishes_after(self, step: int) -> int:
        """How many of the journalled steps after ``step`` publish: as many sequences will be made again."""
        return sum(entry.publish for entry in self._journalled(step + 1))

    def next(self, timeout_s: float) -> Step | None:
        """The next step, or None if none came together within ``timeout_s``, and at once `at_switch`.

        When it returns, the step's journal entry is written, and durable if the step publishes. Raises DataLossError
        for records or journalled steps that are gone, UnavailableError if the journal's disk is full (call again when
        there is room), and DurabilityError if the disk fails to keep the journal: that is final.
        """
        if self.at_switch:
            return None
        deadline = time.monotonic() + timeout_s
        self._ahead.accept(self._clock)
        if self._entries is None:
            self._entries = takewhile(self._is_mine, self._journalled(self._runner.step + 1))
            self._recorded = next(self._entries, None)
        if self._recorded is not None:
            return self._next_recorded(self._recorded, deadline)
        if self._replay_only:
            return self._runner.nothing_more()
        return self._next_live(deadline)

    # --- from the journal --------------------------------------------------------------------------------------------

    def _journalled(self, step: int) -> Iterator[StepEntry]:
        return self._journal.read(step) if step <= self._journal.last_step else iter(())

    def _is_mine(self, entry: StepEntry) -> bool:
        return self._until is None or entry.step <= self._until

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
        is_last = self._recorded is None and self._until is None
        return self._runner.run(entry, ends=is_last and (entry.ended or self._replay_only))

    def _meet(self, entry: StepEntry) -> None:
        """Add the lanes and ends that the run met at this step; one that had ended forgets its ends first, as live."""
        for lane in self._runner.lanes():
            lane.stop = None if self._runner.ended else lane.stop
        for inlet in self._inlets:
            for partition, begin in entry.begins.get(inlet.name, {}).items():
                if partition not in inlet.lanes:
                    inlet.add_lane(partition, begin, seek=True)
            for partition, stop in entry.stop_at.get(inlet.name, {}).items():
                inlet.lanes[partition].stop = stop

    # --- live --------------------------------------------------------------------------------------------------------

    def _next_live(self, deadline: float) -> Step | None:
        if not self._live:
            self._live = True
            self._cutter.start(ended=self._runner.ended)
            if self._journal.lineage:  # a run, and not a look at what is there
                reached = self._runner.watermark_ms
                log.info(
                    "live step=%d watermark_ms=%s", self._runner.step, "none" if reached == WATERMARK_START else reached
                )
        wait_s = 0.0
        while True:
            self._cutter.look(wait_s)
            if self._runner.ended and self._cutter.at_end():
                return self._runner.nothing_more()
            entry = self._cutter.cut(self._runner.standing())
            if entry is not None:
                self._runner.check(entry)
                self._rejects.check(self._inlets, entry)
                self._write(entry)
                step = self._runner.run(entry, ends=entry.ended)
                if step.records >= self._job.train.step_records and not step.ended:  # there is a backlog
                    self._ahead.begin()
                return step
            rest_s = deadline - time.monotonic()
            if rest_s <= 0:
                return None
            wait_s = min(WAIT_S, rest_s)

    def closing_step(self) -> Step | None:
        """A step that takes no record and publishes: for a trainer that is told to stop, or whose store lost its rows.

        None where the journal has steps that are to be run again first or other settings come next, and in a replay,
        which adds no step. When it returns, the entry is durable. Raises UnavailableError as `next` does.
        """
        if self._replay_only or self._until is not None or self._runner.step != self._journal.last_step:
            return None
        entry = self._cutter.closing(self._runner.standing())
        self._write(entry)
        return self._runner.run(entry, ends=False)

    def _write(self, entry: StepEntry) -> None:
        self._journal.append(entry)
        self._cutter.written(entry)
        self._recorded = entry  # should the sync fail, no later call may pass over this entry
        if entry.publish:
            self._journal.sync()
        self._recorded = None

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything that the next step depends on besides the streams and the journal; the latter is durable then.

        Canonical: the same state gives the same bytes.
        """
        self._keep()
        return self._runner.state()

    def save(self, *, whole: bool) -> Files:
        """As `state`, as the files of a snapshot, by name; None: the bytes that an earlier call gave under that name.

        What is to be called with a folder writes files into it. ``whole``: all of them are given. What waits in the
        joiner is written once, and then only what changes of it.
        """
        self._keep()
        return self._runner.save(whole=whole)

    def _keep(self) -> None:
        self._journal.sync()
        self._committable = self._runner.positions()

    def load(self, kept: KeptFiles) -> None:
        """Stand where `save` gave the files of the snapshot ``kept``, or an earlier build did. Raises as `restore`."""
        self._restore(kept.read(STATE_FILE), kept)

    def begin_after(self, kept: KeptFiles) -> None:
        """Begin the run where another one stood in the same streams, with what waited there; raises as `restore`.

        Its model is to be published. ``kept`` is that run's snapshot, or a start that was made of it.
        """
        self._ahead.forget()
        self._runner.begin_after(decode_reader_state(kept.read(STATE_FILE)), kept)

    def restore(self, data: bytes) -> None:
        """Stand where `state` gave ``data``; the journal's later steps come next.

        Raises VersionError or CorruptError for bytes that are no state, or are of a step that the journal lacks, and
        ConfigError for those of a job with other streams.
        """
        self._restore(data, _NoFiles())

    def _restore(self, data: bytes, kept: KeptFiles) -> None:
        state = decode_reader_state(data)
        if state.step > self._journal.last_step:
            raise CorruptError(
                f"the snapshot is of step {state.step}, but the step journal {self._journal.folder} ends at step "
                f"{self._journal.last_step}: restore the journal that belongs to it"
            )
        self._ahead.forget()
        self._runner.restore(state, kept)
        self._live = False
        self._entries = self._recorded = None

    def begin_at(self, positions: Positions) -> None:
        """Begin the run at these offsets, by `Source.name` and partition, with a model that is to be published.

        What a journalled step says of where the run began counts for more.
        """
        self._runner.unpublished = True
        self._ahead.forget()
        for inlet in self._inlets:
            inlet.source.seek(positions.get(inlet.source.name, {}))

    def commit(self) -> None:
        """The last `state` is kept now: tell the streams' own book-keeping (Kafka groups) its positions.

        And keep what the streams are known by, beside the run's own journal.
        """
        self._ahead.wait()
        if not self._replay_only and self._journal.lineage:
            keep_marks(self._inlets, self._journal.folder.parent)
        for inlet in self._inlets:
            if positions := self._committable.get(inlet.name):
                inlet.source.commit(positions)

    def trim(self, before_step: int) -> None:
        """Let the journal forget steps before ``before_step``, unless it is another run's that is only replayed."""
        if not self._replay_only and not self._job.train.keep_journal:
            self._journal.trim(before_step)

    def progress(self) -> Progress:
        """A look at everything that a person asks a running job."""
        self._ahead.wait()
        return self._runner.progress()

    def close(self) -> None:
        """Let go of streams, dead letters and journal. Twice is fine."""
        self._ahead.close()
        self._runner.close()
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


class _NoFiles:
    """Of a state that stands in no snapshot."""

    path = Path()

    def read(self, name: str) -> bytes:
        return no_files(name)
