"""Running a step where several processes read: each takes and joins its partitions, here is what all have in common.

The step's cut, its clocks and its watermark are made by one process, from the heads of all records. Everything else is
asked for (`part_messages`), and put together so that it does not show how many processes there are: counts are added,
samples ordered by the turns in which one joiner would make them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.events import WATERMARK_END
from monolith.streaming.deadletters import DeadLetter, DeadLetters
from monolith.streaming.heads import HeadInlet, follow_facts
from monolith.streaming.intake import Reached, Taken, Waits
from monolith.streaming.joiner_segments import FOLDER, merged_indexes, merged_states
from monolith.streaming.joiner_state import JoinCounters, summed
from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Inlet
from monolith.streaming.part_messages import (
    Heads,
    Join,
    Keep,
    Look,
    PartJoined,
    PartKept,
    PartTaken,
    PartWork,
    Stand,
    Take,
    Write,
)
from monolith.streaming.reader_state import STATE_FILE, LaneState, ReaderState, restore_lane
from monolith.streaming.runner import Files, KeptFiles, Made, Runner
from monolith.streaming.step_digest import Digests, of_partitions
from monolith.tables.batch import Batch, Ints, concatenated
from monolith.tables.batch_bytes import from_bytes

T = TypeVar("T")


class PartReaders(Protocol):
    """All processes' parts, of the one that cuts the steps first. Every call raises the first error of any."""

    @property
    def inlets(self) -> list[Inlet]:
        """The job's streams, with lanes of heads."""

    def look(self, look: Look) -> Sequence[Heads]:
        """Have all look."""

    def do(self, work: PartWork, answer: type[T]) -> list[T]:
        """Have all do the work; what each answers."""

    def deal(self, places: Sequence[Ints], batch: Batch) -> Batch:
        """Have each part's samples go where they are trained; ``places[i]`` (n,) are those of part i in ``batch``.

        ``batch`` has all samples, in order, without features. Returns the first part's with their features.
        """

    def close(self) -> None:
        """Let go of the streams, everywhere."""


class DividedRunner(Runner):
    """A `Runner` whose lanes have heads only."""

    def __init__(
        self,
        job: JobConfig,
        inlets: list[Inlet],
        letters: DeadLetters,
        clock: Callable[[], float],
        readers: PartReaders,
    ) -> None:
        super().__init__(job, inlets, letters, clock, None)
        self._readers = readers
        nothing = WATERMARK_END  # is what a joiner waits for in which nothing waits
        self._waiting = [Waits(0, nothing, nothing, JoinCounters(), 0)]
        self._jumped = 0

    # --- a step -------------------------------------------------------------------------------------------------------

    def _take(self, entry: StepEntry) -> Taken:
        for inlet in self._inlets:
            for partition, end in entry.ends[inlet.name].items():
                inlet.lanes[partition].take(end)
        begins: dict[str, dict[int, int]] = {
            inlet.name: inlet.new_begins() for inlet in self._inlets if isinstance(inlet, HeadInlet)
        }
        parts = self._readers.do(Take(entry, begins), PartTaken)
        digests: Digests = {}
        for part in parts:
            for inlet in self._inlets:
                digests.setdefault(inlet.name, {}).update(part.digests.get(inlet.name, {}))
                for partition, facts in part.lanes[inlet.name].items():
                    follow_facts(inlet.lanes[partition], facts)
        self._jumped = sum(part.jumps for part in parts)
        return Taken(
            sum(part.records for part in parts),
            max(part.newest_ingestion_ms for part in parts),
            max(part.last_ms for part in parts),
            digests,
            of_partitions(entry, digests),
        )

    def _join(self, _: StepEntry, reached: Reached) -> Made:
        parts = self._readers.do(Join(reached), PartJoined)
        self._waiting = [part.waits for part in parts]
        for letter in sorted((letter for part in parts for letter in part.letters), key=self._place):
            self._letters.put(letter)
        order, places = merged([np.frombuffer(part.turns, "<i8").reshape(-1, 5) for part in parts])
        batch = concatenated([from_bytes(part.heads) for part in parts]).take(order)
        example = self._readers.deal(places, batch)
        strings: dict[str, dict[int, str]] = {}
        for part in parts:
            for feature, texts in part.strings.items():
                strings.setdefault(feature, {}).update(texts)
        return Made(batch, (), strings, example)

    def _place(self, letter: DeadLetter) -> tuple[int, int, int]:
        number = next((inlet.number for inlet in self._inlets if inlet.name == letter.stream), len(self._inlets))
        return number, letter.partition, letter.offset

    # --- between steps ------------------------------------------------------------------------------------------------

    def _waits(self) -> Waits:
        each = self._waiting
        return Waits(
            sum(one.held_bytes for one in each),
            min(one.due_ms for one in each),
            min(one.pending_ms for one in each),
            summed([one.counters for one in each]),
            sum(one.crossed for one in each),
        )

    def _jumps(self) -> int:
        return self._jumped

    def state(self) -> bytes:
        """See `Runner`."""
        parts = self._readers.do(Keep(whole=True, in_files=False), PartKept)
        return self._state(merged_states([part.joiner for part in parts]), self._lane_states(parts))

    def save(self, *, whole: bool) -> Files:
        """See `Runner`; each process writes the segments of what waits with it."""
        parts = self._readers.do(Keep(whole=whole, in_files=True), PartKept)
        state = self._state(merged_indexes([part.joiner for part in parts]), self._lane_states(parts))
        files: Files = {STATE_FILE: state}
        files |= {name: None for part in parts for name, is_new in part.files.items() if not is_new}
        if any(is_new for part in parts for is_new in part.files.values()):
            files[FOLDER] = self._write
        return files

    def _write(self, folder: Path) -> None:
        self._readers.do(Write(str(folder.resolve())), int)

    def _lane_states(self, parts: Sequence[PartKept]) -> dict[str, dict[int, LaneState]]:
        """The owners' lanes, with the ends that are known here."""
        found: dict[str, dict[int, LaneState]] = {}
        for inlet in self._inlets:
            owned = {p: lane for part in parts for p, lane in part.lanes[inlet.name].items()}
            found[inlet.name] = {
                p: msgspec.structs.replace(owned[p], position=lane.position, stop=lane.stop)
                for p, lane in sorted(inlet.lanes.items())
            }
        return found

    def _stand(self, state: ReaderState, kept: KeptFiles) -> None:
        work = Stand(msgspec.msgpack.encode(state), str(kept.path.resolve()))
        self._waiting = self._readers.do(work, Waits)
        for inlet in self._inlets:
            assert isinstance(inlet, HeadInlet)
            inlet.lanes = {}
            for partition, lane in state.lanes[inlet.name].items():
                restore_lane(inlet, partition, lane)
            inlet.new_begins()  # the owners have these lanes

    def close(self) -> None:
        """Let go of the streams, everywhere."""
        self._readers.close()


def merged(turns: Sequence[Ints]) -> tuple[Ints, list[Ints]]:
    """The order of all parts' samples, which stand one part after the other, and what place in it those of each have.

    ``turns[i]`` (n, 5) are in order.
    """
    together = np.concatenate(list(turns))
    order = np.lexsort(together.T[::-1])  # stable: samples that one record made stay as they are
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return order, np.split(places, np.cumsum([len(each) for each in turns])[:-1])
