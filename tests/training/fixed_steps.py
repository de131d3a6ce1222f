"""Steps that are known beforehand, a store that keeps rows in memory, and a trainer over both."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from batches import batch_of

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig, TrainConfig
from monolith.config.admission import MinCount
from monolith.config.eviction import LFU
from monolith.config.expiry import Idle
from monolith.config.optimizers import Adam
from monolith.streaming.progress import Progress
from monolith.tables.batch import Batch
from monolith.training.learner import Learner
from monolith.training.snapshot import Snapshots
from monolith.training.trainer import Trainer


@dataclass
class FixedStep:
    number: int
    batch: Batch
    watermark_ms: int
    publish: bool
    ended: bool = False
    digest: bytes = b"fixed"
    example: Batch | None = None


@dataclass
class FixedSteps:
    """Steps made up front; its state is the number of the last one taken."""

    steps: list[FixedStep]
    at: int = 0
    committed: list[int] = field(default_factory=list)
    trimmed: list[int] = field(default_factory=list)
    at_switch = False

    def next(self, timeout_s: float) -> FixedStep | None:
        if self.at == len(self.steps):
            return FixedStep(self.at, self.steps[0].batch[:0], 0, publish=False, ended=True)
        self.at += 1
        return self.steps[self.at - 1]

    def closing_step(self) -> FixedStep:
        self.steps.insert(self.at, FixedStep(self.at + 1, self.steps[0].batch[:0], self.at * 10_000, publish=True))
        return self.next(0)

    def save(self, *, whole: bool) -> dict[str, bytes | None]:
        return {"stream.bin": msgspec.msgpack.encode(self.at)}

    def load(self, kept) -> None:
        self.at = msgspec.msgpack.decode(kept.read("stream.bin"))

    def commit(self) -> None:
        self.committed.append(self.at)

    def trim(self, before_step: int) -> None:
        self.trimmed.append(before_step)

    def progress(self) -> Progress:
        return Progress(records=sum(len(step.batch) for step in self.steps[: self.at]), lag=len(self.steps) - self.at)


@dataclass
class KeptSteps(FixedSteps):
    """Writes a part of its state once, and then only where it must."""

    wholes: int = 0

    def save(self, *, whole: bool) -> dict[str, bytes | None]:
        self.wholes += whole
        return {**super().save(whole=whole), "joiner/rows": b"rows" if whole else None}


@dataclass
class QuietSteps(FixedSteps):
    """After the last step nothing comes for a while, in which the store loses its memory."""

    store: Rows | None = None
    quiet: int = 3

    def __init__(self, steps, store) -> None:
        super().__init__(steps)
        self.store = store

    def next(self, timeout_s: float) -> FixedStep | None:
        if self.at == len(self.steps) and self.quiet:
            if self.quiet == 2:
                self.store.held_sequence, self.store.rows = 0, {}
            self.quiet -= 1
            return None
        return super().next(timeout_s)


@dataclass
class Rows:
    """A store of absolute rows that drops what it knows, as a real one does."""

    held_sequence: int = 0
    rows: dict[str, dict[int, bytes]] = field(default_factory=dict)
    seen: list[tuple[int, int]] = field(default_factory=list)
    beats: int = 0

    def publish(self, sequence, make_delta):
        if sequence <= self.held_sequence:
            return
        delta = make_delta(self.held_sequence)
        self.seen.append((delta.base_sequence, delta.sequence))
        for name, part in delta.tables.items():
            table = self.rows.setdefault(name, {})
            for row_id in part.removed.tolist():
                table.pop(row_id, None)
            for row_id, values in zip(part.ids.tolist(), part.values, strict=True):
                table[row_id] = values.tobytes()
        self.held_sequence = sequence

    def tend(self, sequence, make_delta):
        self.publish(sequence, make_delta)

    def lacks(self, sequence):
        return self.held_sequence < sequence

    def beat(self):
        self.beats += 1

    def drain(self, timeout_s):
        return True


JOB = JobConfig(
    name="t",
    input=InputConfig(samples="memory://samples"),
    tables=[
        TableConfig(name="user", dim=5, expiry=Idle(ttl_s=100), eviction=LFU(max_rows=25)),
        TableConfig(name="item", dim=5, optimizer=Adam(), admission=MinCount(2), expiry=Idle(ttl_s=50)),
    ],
    model=ModelConfig(kind="deepfm", hidden=[8]),
    train=TrainConfig(batch_size=8, snapshot_every_s=1e9, sweep_rows=5),
)


def made_steps(count: int = 40) -> FixedSteps:
    rng = np.random.default_rng(0)
    steps = []
    for number in range(1, count + 1):
        now_ms = number * 10_000
        drawn = [
            (
                {"user": int(rng.integers(0, 30) + number), "item": int(rng.integers(0, 15) + number // 2)},
                rng.integers(0, 2),
            )
            for _ in range(20)
        ]
        samples, labels = zip(*drawn, strict=True)
        batch = batch_of(JOB, samples, labels, times_ms=range(now_ms, now_ms + 20))
        steps.append(FixedStep(number, batch, now_ms, publish=number % 3 == 0))
    return FixedSteps(steps)


def trainer(folder: Path, steps: FixedSteps, publisher: Rows | None = None, lineage: str = "run") -> Trainer:
    return Trainer(Learner(JOB), steps, Snapshots(folder), lineage=lineage, publisher=publisher)
