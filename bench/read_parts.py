"""What reading a job's streams costs rank 0, and what each of several ranks, where each reads partitions of its own.

    python bench/read_parts.py [--events N] [--ranks 1 2 4 8] [--repeats N] [--json PATH]

Features of 26 integers in MessagePack, a fifth of them followed by an action, both in 8 partitions of a log:// folder
keyed by request id, are read and joined to samples: by one process as ever (`whole`), and by W parts, all in this
process, one after the other, so that the processor's time of each can be told apart. Printed are, in microseconds of
processor time a sample, medians with the least and the most:

  whole    one process: reading, decoding, joining, and the columns of batches
  cut      rank 0 beside its own part: heads of records, cutting, ordering samples
  part     the largest part of the W: what one rank does
  bound    samples a second that W ranks can read at the most: one second over `cut` + `part`

Messages between ranks are encoded and decoded, and not sent; nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from machine import machine
from stream import events_of, job_of

from monolith.config import JobConfig
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.heads import HeadInlet
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import Journal
from monolith.streaming.lanes import Inlet
from monolith.streaming.part_messages import Heads, Join, Keep, Look, PartWork, Stand, Take, Write
from monolith.streaming.part_reader import PartReader
from monolith.streaming.read_ahead import ReadAhead
from monolith.streaming.source import open_sink
from monolith.streaming.steps import StepReader
from monolith.tables.batch import Batch, Ints
from monolith.training.sharding.dealing import message_of, opened

PARTITIONS = 8
FEATURES = 26
T = TypeVar("T")


class Parts:
    """As many parts as there would be ranks; ``seconds`` of processor time that each took."""

    def __init__(self, job: JobConfig, ranks: int) -> None:
        self.parts = [PartReader(job, rank, ranks) for rank in range(ranks)]
        self.inlets: list[Inlet] = [HeadInlet(job, inlet, self, lambda: None) for inlet in self.parts[0].inlets]
        self.seconds = [0.0] * ranks
        for part in self.parts:
            part._ahead = ReadAhead([], 1)  # its thread's time would be counted with another part's

    def look(self, look: Look) -> Sequence[Heads]:
        """See `PartReaders`."""
        return self.do(look, Heads)

    def do(self, work: PartWork, answer: type[T]) -> list[T]:
        """See `PartReaders`."""
        does = {Look: "look", Take: "take", Join: "join", Keep: "keep", Write: "write", Stand: "stand"}
        sent, said = msgspec.msgpack.encode(work), []
        for rank, part in enumerate(self.parts):
            begin = time.process_time()
            said.append(
                msgspec.msgpack.encode(getattr(part, does[type(work)])(msgspec.msgpack.decode(sent, type=type(work))))
            )
            self.seconds[rank] += time.process_time() - begin
        return [msgspec.msgpack.decode(each, type=answer) for each in said]

    def deal(self, places: Sequence[Ints], _: Batch) -> Batch:
        """See `PartReaders`; each part packs its samples for all others, and opens as many."""
        for rank, part in enumerate(self.parts):
            begin = time.process_time()
            assert part.batch is not None
            owners = places[rank] % len(self.parts)
            for other in range(len(self.parts)):
                chosen = np.flatnonzero(owners == other)
                opened(message_of(places[rank][chosen], part.batch.take(chosen)))
            self.seconds[rank] += time.process_time() - begin
        assert self.parts[0].batch is not None
        return self.parts[0].batch

    def close(self) -> None:
        """See `PartReaders`."""
        for part in self.parts:
            part.close()


def read(job: JobConfig, folder: Path, ranks: int) -> tuple[float, float, int]:
    """Seconds of all but the parts, of the largest part, and samples; ``ranks`` 0: one process as ever."""
    readers = Parts(job, ranks) if ranks else None
    journal = Journal(folder)
    inlets = open_inlets(job) if readers is None else readers.inlets
    reader = StepReader(job, inlets, journal, DeadLetters(None), readers=readers)
    if readers is None:
        reader._ahead = ReadAhead([], 1)
    samples, begin = 0, time.process_time()
    with reader:
        while True:
            step = reader.next(10.0)
            assert step is not None
            samples += len(step.batch)
            if step.ended:
                break
    of_parts = readers.seconds if readers is not None else [0.0]
    return time.process_time() - begin - sum(of_parts), max(of_parts), samples


def fill(folder: Path, count: int) -> dict[str, str]:
    """Two logs, and their URLs."""
    urls = {}
    for name, events in zip(("features", "actions"), events_of(count, FEATURES), strict=True):
        urls[name] = f"log://{folder / name}"
        sink = open_sink(f"{urls[name]}?partitions={PARTITIONS}&sync=0")
        rows = [(event.request_id.encode(), encode(event), event.event_time_ms) for event in events]
        for begin in range(0, len(rows), 5000):
            sink.append(rows[begin : begin + 5000])
        sink.close()
    return urls


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):6.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    """Measure all, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[int, list[tuple[float, float]]] = {ranks: [] for ranks in [0, *args.ranks]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = job_of(FEATURES, 4096, co_partitioned=True, **fill(folder, args.events))
        for turn in range(args.repeats):
            for ranks, times in found.items():
                cut, part, samples = read(job, folder / f"journal-{turn}-{ranks}", ranks)
                times.append((1e6 * cut / samples, 1e6 * part / samples))
    print(machine())
    print(f"{'whole':>8}  {spread([cut for cut, _ in found[0]])}")
    report: dict[str, Any] = {"whole": [cut for cut, _ in found[0]]}
    for ranks in args.ranks:
        cuts, parts = zip(*found[ranks], strict=True)
        bound = 1e6 / (statistics.median(cuts) + statistics.median(parts))
        print(f"{ranks:>3} ranks  cut {spread(cuts)}  part {spread(parts)}  bound {bound:10,.0f} samples/s")
        report[f"{ranks} ranks"] = {"cut": cuts, "part": parts, "bound": bound}
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
