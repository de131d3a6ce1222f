"""From a step's records to its samples: the lanes give them to the gate, and the gate to the joiner.

A process that reads a job's streams alone has one intake for all partitions. Where several read them, each has one for
its own: everything in it depends on these, but for the times that `Intake.join` is given, and what the intakes make,
sorted by `JoinedSamples.turns`, is what one alone would make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from monolith.config import JobConfig
from monolith.errors import ConfigError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.gate import Gate
from monolith.streaming.joined import JoinedSamples
from monolith.streaming.joiner import Joiner, OnShown
from monolith.streaming.joiner_segments import Read
from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.journal import StepEntry
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.lanes import Inlet, Lane
from monolith.streaming.reader_state import ReaderState, restore_lane
from monolith.streaming.refit import refitted
from monolith.streaming.step_digest import Digests, StepDigest, of_partitions
from monolith.tables.batch import Batch
from monolith.tables.schema import FeatureSchema, card_features

Owns = Callable[[int], bool]  # whether a partition is this process's


def owns_all(_: int) -> bool:
    """Of a process that reads alone."""
    return True


class Waits(msgspec.Struct, frozen=True, array_like=True):
    """What waits in the joiner, and what became of everything else."""

    held_bytes: int
    due_ms: int  # the watermark that lets go of the next thing that waits
    pending_ms: int  # order time of the next record that waits
    counters: JoinCounters
    crossed: int  # see `Joiner.crossed`


class Reached(msgspec.Struct, frozen=True, array_like=True):
    """How far the records of all processes have come, once a step took its own."""

    newest_ms: int  # the lanes' clocks
    newest_ingestion_ms: int
    last_ms: int  # at an end, the order time of the last record that waits


@dataclass(frozen=True, slots=True)
class Taken:
    """What the lanes gave to a step, and how far its process's records have come."""

    records: int
    newest_ingestion_ms: int
    last_ms: int
    digests: Digests  # where partitions have digests of their own
    digest: bytes  # of all, where they have none


class Intake:
    """Owned by one reader, with the lanes of its ``inlets``."""

    def __init__(
        self,
        job: JobConfig,
        inlets: list[Inlet],
        letters: DeadLetters,
        on_shown: OnShown | None = None,
        *,
        owns: Owns = owns_all,
        tells_turns: bool = False,
    ) -> None:
        """``on_shown`` and ``tells_turns`` are the joiner's."""
        self._job, self._inlets, self._letters, self._owns = job, inlets, letters, owns
        ignore = job.input.unknown_features == "ignore"
        self.schema = FeatureSchema(card_features(job), ignore_unknown=ignore, keep_strings=True)
        self.labels = LabelBlocks(job)
        self.joiner = Joiner(
            job.join,
            self.labels.size + self.schema.head_bytes,
            on_shown,
            job.labels if job.input.samples is None else (),
            co_partitioned=job.input.co_partitioned,
            tells_turns=tells_turns,
        )
        self.gate = Gate(job.input, self.joiner, letters)

    def take(self, entry: StepEntry) -> Taken:
        """Everything that ``entry`` takes of the lanes goes to the gate, which moves their clocks."""
        apart = self._job.input.co_partitioned
        whole, digests, records = StepDigest(entry), Digests(), 0
        for inlet in self._inlets:
            own = [(partition, end) for partition, end in entry.ends[inlet.name].items() if self._owns(partition)]
            for partition, end in own:
                lane = inlet.lanes[partition]
                taken, digest = lane.take(end), StepDigest(None) if apart else whole
                digest.add(taken)
                records += self.gate.take(lane, taken, entry.agree)
                if apart:
                    digests.setdefault(inlet.name, {})[partition] = digest.digest()
        self.gate.settle(self.lanes(), entry)
        last_ms = self.joiner.last_ms() if entry.watermark_ms == WATERMARK_END else WATERMARK_START
        made_from = of_partitions(entry, digests) if apart else whole.digest()
        return Taken(records, self.joiner.newest_ingestion_ms, last_ms, digests, made_from)

    def join(self, entry: StepEntry, reached: Reached) -> JoinedSamples:
        """The samples of the step whose records were taken."""
        self.joiner.heard_of(reached.newest_ingestion_ms)
        samples = self.joiner.advance(
            entry.watermark_ms,
            released_ms=entry.released_ms,
            newest_ms=reached.newest_ms,
            last_ms=reached.last_ms,
        )
        self.gate.bury_late_actions()
        return samples

    def batch(self, samples: JoinedSamples) -> Batch:
        """``samples`` with their features, labels and groups as columns."""
        return samples.batch(self.schema, self._job.train.group_by, self.labels)

    def waits(self) -> Waits:
        """What waits now."""
        joiner = self.joiner
        return Waits(joiner.total_bytes, joiner.due_ms(), joiner.pending_ms(), joiner.counters, joiner.crossed)

    def lanes(self) -> list[Lane]:
        """Every lane, by stream and partition."""
        return [inlet.lanes[partition] for inlet in self._inlets for partition in sorted(inlet.lanes)]

    def stand(self, state: ReaderState, read: Read, *, counts: bool = True) -> None:
        """Have the lanes, and what waits of their records, as when ``state`` was kept; ``read`` reads its files.

        ``counts``: the joiner's counters go on, which of several processes one does. Raises ConfigError for the state
        of a job with other streams, CorruptError for one that does not fit together.
        """
        if set(state.lanes) != {inlet.name for inlet in self._inlets}:
            raise ConfigError(f"the snapshot is of the streams {sorted(state.lanes)}; the job's input names others")
        kept = refitted(state, self.schema, self.labels, self.joiner, read)
        if self._owns is not owns_all:
            kept = kept.of_partitions(self._owns)
        self.joiner.restore(kept if counts else msgspec.structs.replace(kept, counters=JoinCounters()))
        for inlet in self._inlets:
            inlet.lanes = {}
            for partition, lane in state.lanes[inlet.name].items():
                if self._owns(partition):
                    restore_lane(inlet, partition, lane)
