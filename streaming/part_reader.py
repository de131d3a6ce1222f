"""One process's part of reading a job's streams: it polls, gates and joins the partitions that it owns.

It does as it is told (`part_messages`), and knows nothing of steps but what it is told. Partition p is owned by process
p mod n of n, in all streams.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from monolith.config import JobConfig
from monolith.disk import write_and_sync
from monolith.errors import CorruptError
from monolith.events import WATERMARK_END
from monolith.streaming.backlog import Polled
from monolith.streaming.deadletters import KeptLetters
from monolith.streaming.heads import facts_of, heads_of
from monolith.streaming.inlets import open_inlets
from monolith.streaming.intake import Intake, Taken, Waits
from monolith.streaming.joined import JoinedSamples
from monolith.streaming.joiner_segments import FOLDER, renumbered
from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Inlet, Polling
from monolith.streaming.marks import expect_same
from monolith.streaming.part_messages import (
    Heads,
    Join,
    Keep,
    Look,
    PartJoined,
    PartKept,
    PartTaken,
    Stand,
    Take,
    Write,
)
from monolith.streaming.read_ahead import ReadAhead
from monolith.streaming.reader_state import decode_reader_state, lane_states
from monolith.tables.batch import Batch
from monolith.tables.batch_bytes import to_bytes


class PartInlet(Inlet):
    """A stream of which some partitions are polled here; ``untold``: what came since it was last asked for."""

    untold: dict[int, list[Polled]]

    def accept(self, polling: Polling, clock: Callable[[], float]) -> bool:
        """See `Inlet`."""
        for partition, items in groupby(polling.items, key=attrgetter("partition")):
            self.untold.setdefault(partition, []).extend(items)
        return super().accept(polling, clock)


class PartReader:
    """Process ``rank`` of ``ranks``. Owned by one thread."""

    def __init__(self, job: JobConfig, rank: int, ranks: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the streams; raises as `open_inlets`."""
        self.rank, self.ranks = rank, ranks
        self._job, self._clock = job, clock
        self.inlets = open_inlets(job, inlet=PartInlet, owns=self.owns)
        self._by_name: dict[str, PartInlet] = {}
        for inlet in self.inlets:
            assert isinstance(inlet, PartInlet)
            inlet.untold = {}
            self._by_name[inlet.name] = inlet
        self._letters = KeptLetters()
        self._intake = Intake(job, self.inlets, self._letters, owns=self.owns, tells_turns=True)
        self._ahead = ReadAhead(self.inlets, job.train.step_records)
        self._entry: StepEntry | None = None  # of the step whose records were taken
        self._taken: Taken | None = None
        self._files: Mapping[str, bytes | None] = {}
        self.batch: Batch | None = None  # the samples that were made last, with their features

    def owns(self, partition: int) -> bool:
        """Whether a partition is this process's."""
        return partition % self.ranks == self.rank

    def settle(self) -> None:
        """No other thread has a source afterwards."""
        self._ahead.wait()

    # --- work ---------------------------------------------------------------------------------------------------------

    def look(self, look: Look) -> Heads:
        """Tell what came in a stream's partitions; poll them where nothing did."""
        inlet = self._by_name[look.stream]
        self._begin(inlet, look.begins)
        self._ahead.accept(self._clock)
        own = [partition for partition in look.partitions if self.owns(partition)]
        if not any(inlet.untold.get(partition) for partition in own):
            inlet.fill(look.most, look.wait_s, own, self._clock)
        heads = [heads_of(partition, items) for partition in own if (items := inlet.untold.pop(partition, None))]
        return Heads(
            heads,
            {partition: inlet.lanes[partition].polled for partition in own if partition in inlet.lanes},
            {partition: end for partition, end in inlet.source.end_position().items() if self.owns(partition)},
            inlet.source.skipped,
            inlet.source.missing,
        )

    def _begin(self, inlet: Inlet, begins: Mapping[int, int]) -> None:
        self.settle()
        for partition, position in begins.items():
            if self.owns(partition):
                inlet.add_lane(partition, position, seek=True)

    def take(self, take: Take) -> PartTaken:
        """The records of a step go to the gate, and behind it they wait in the joiner."""
        for stream, begins in take.begins.items():
            self._begin(self._by_name[stream], begins)
        self._entry = take.entry
        self._taken = taken = self._intake.take(take.entry)
        return PartTaken(
            taken.records,
            taken.digests,
            {i.name: {p: facts_of(lane) for p, lane in i.lanes.items()} for i in self.inlets},
            self._intake.gate.jumps,
            taken.newest_ingestion_ms,
            taken.last_ms,
        )

    def join(self, join: Join) -> PartJoined:
        """Make the step's samples, which are in ``batch`` then; then read on where there is a backlog."""
        assert self._entry is not None
        assert self._taken is not None
        samples = self._intake.join(self._entry, join.reached)
        joined = self._joined(samples)
        is_last = self._entry.watermark_ms == WATERMARK_END
        if not is_last and self._taken.records >= self._job.train.step_records // self.ranks:
            self._ahead.begin()
        return joined

    def _joined(self, samples: JoinedSamples) -> PartJoined:
        self.batch = self._intake.batch(samples)
        strings = samples.strings(self._intake.schema, self._intake.labels)
        return PartJoined(
            np.ascontiguousarray(samples.turns, "<i8").tobytes(),
            to_bytes(headless(self.batch)),
            {name: dict(texts) for name, texts in strings.items()},
            self._letters.take(),
            self._intake.waits(),
        )

    def keep(self, keep: Keep) -> PartKept:
        """What a snapshot is to hold of this part."""
        if keep.in_files:
            saved = self._intake.joiner.save(whole=keep.whole)
            index, self._files = renumbered(saved, self.rank, self.ranks)
        else:
            index, self._files = self._intake.joiner.state(), {}
        files = {name: data is not None for name, data in self._files.items()}
        return PartKept(index, files, lane_states(self.inlets))

    def write(self, write: Write) -> int:
        """Write the new files of the last `keep`, durably, into the folder; how many bytes. Raises OSError."""
        new = {name.removeprefix(f"{FOLDER}/"): data for name, data in self._files.items() if data is not None}
        self._files = {}
        for name, data in new.items():
            write_and_sync(Path(write.folder) / name, data)
        return sum(map(len, new.values()))

    def stand(self, stand: Stand) -> Waits:
        """Have the lanes and the joiner as a state says. Raises as `Intake.stand`."""

        def read(name: str) -> bytes:
            try:
                return (Path(stand.folder) / name).read_bytes()
            except OSError as error:
                raise CorruptError(f"the snapshot's file {name} cannot be read: {error}") from error

        self._ahead.forget()
        self._entry = self._taken = self.batch = None
        for inlet in self._by_name.values():
            inlet.untold = {}
        expect_same(self.inlets, Path(stand.folder))
        self._intake.stand(decode_reader_state(stand.state), read, counts=self.rank == 0)
        return self._intake.waits()

    def close(self) -> None:
        """Let go of the streams. Twice is fine."""
        self._ahead.close()
        for inlet in self.inlets:
            inlet.source.close()


def headless(batch: Batch) -> Batch:
    """``batch`` without its features."""
    fields = {name: getattr(batch, name) for name in Batch.__slots__ if name not in ("bags", "dense")}
    return Batch(bags={}, dense={}, **fields)
