"""All parts of a job's reading in one process, and what a snapshot gave in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monolith.streaming.heads import HeadInlet
from monolith.streaming.part_messages import Join, Keep, Look, Stand, Take, Write
from monolith.streaming.part_reader import PartReader
from monolith.tables.batch import concatenated


class LocalReaders:
    """As many `PartReader`s as there would be processes; ``dealt``: each step's samples, from their owners."""

    def __init__(self, job, parts: int, clock) -> None:
        self.parts = [PartReader(job, part, parts, clock) for part in range(parts)]
        first = self.parts[0]
        self.inlets = [HeadInlet(job, inlet, self, first.settle) for inlet in first.inlets]
        self.dealt = []

    def look(self, look):
        return self.do(look, None)

    def do(self, work, _):
        does = {Look: "look", Take: "take", Join: "join", Keep: "keep", Write: "write", Stand: "stand"}
        return [getattr(part, does[type(work)])(work) for part in self.parts]

    def deal(self, places, batch):
        together = concatenated([part.batch for part in self.parts])
        self.dealt.append(together.take(np.argsort(np.concatenate(places))))
        assert len(batch) == len(together)
        return self.parts[0].batch

    def close(self) -> None:
        for part in self.parts:
            part.close()


class KeptInMemory:
    """A snapshot's files."""

    path = Path()

    def __init__(self, files: dict[str, bytes]) -> None:
        self.read = files.__getitem__


class KeptOnDisk:
    """A snapshot's files, those that a reader's `save` gave and those that it carries over."""

    def __init__(self, path: Path, given, before=None) -> None:
        self.path = path
        for name, data in given.items():
            target = path / name
            if callable(data):
                target.mkdir(parents=True, exist_ok=True)
                data(target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(before.read(name) if data is None else data)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()
