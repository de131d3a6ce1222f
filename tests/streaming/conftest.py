"""Jobs, clocks and streams that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monolith.config import InputConfig, JobConfig, JoinConfig, TableConfig, TrainConfig
from monolith.events import ActionEvent, FeatureEvent
from monolith.streaming import memory
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import SEGMENT_BYTES, Journal
from monolith.streaming.memory import MemoryTopic
from monolith.streaming.runner import Step
from monolith.streaming.steps import StepReader


class Clock:
    """Wall time in seconds that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def topics() -> Iterator[Callable[..., MemoryTopic]]:
    """Makes named memory streams and forgets them afterwards."""
    names: list[str] = []

    def make(name: str, partitions: int = 1) -> MemoryTopic:
        names.append(name)
        memory.forget(name)
        return memory.topic(name, partitions)

    yield make
    for name in names:
        memory.forget(name)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., JobConfig]:
    """A job with one table `user` over memory://features and memory://actions; sections can be changed by keyword."""

    def make(
        input: dict[str, Any] | None = None,
        join: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        **more: Any,
    ) -> JobConfig:
        urls = {"features": "memory://features", "actions": "memory://actions"}
        return JobConfig(
            name="job",
            input=InputConfig(**{**urls, **(input or {})}),
            join=JoinConfig(**{"window_s": 10.0, "early_s": 5.0, "dedup_s": 30.0, **(join or {})}),
            train=TrainConfig(**{"step_linger_s": 0.0, "publish_every_s": 5.0, **(train or {})}),
            tables=more.pop("tables", [TableConfig(name="user", dim=4)]),
            state=str(tmp_path / "state"),
            **more,
        )

    return make


@pytest.fixture
def feature_bytes() -> Callable[..., bytes]:
    def make(request: str, time_ms: int, item: str = "i", **features: Any) -> bytes:
        return encode(FeatureEvent(request, item, time_ms, features or {"user": 1}))

    return make


@pytest.fixture
def action_bytes() -> Callable[..., bytes]:
    def make(request: str, time_ms: int, item: str = "i", action: str = "click") -> bytes:
        return encode(ActionEvent(request, item, action, time_ms))

    return make


@pytest.fixture
def drain() -> Callable[[StepReader], list[Step]]:
    """Every step until the reader says that it has ended."""

    def run(reader: StepReader) -> list[Step]:
        steps: list[Step] = []
        while not steps or not steps[-1].ended:
            step = reader.next(timeout_s=10.0)
            assert step is not None, f"no step within 10 s after {len(steps)}"
            steps.append(step)
        return steps

    return run


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """Turns over one bit of a file's byte."""

    def turn(path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    return turn


class Streams:
    """Puts events into the two streams of the job."""

    def __init__(self, features, actions, feature_bytes, action_bytes) -> None:
        self.features, self.actions = features, actions
        self._feature_bytes, self._action_bytes = feature_bytes, action_bytes

    def show(self, request: str, at_s: float, partition: int = 0, **features) -> None:
        time = round(at_s * 1000)
        self.features.put(partition, None, self._feature_bytes(request, time, **features), time, time)

    def act(self, request: str, at_s: float, partition: int = 0) -> None:
        time = round(at_s * 1000)
        self.actions.put(partition, None, self._action_bytes(request, time), time, time)


@pytest.fixture
def streams(topics, feature_bytes, action_bytes):
    def make(partitions: int = 1) -> Streams:
        return Streams(topics("features", partitions), topics("actions", partitions), feature_bytes, action_bytes)

    return make


@pytest.fixture
def open_reader(tmp_path, clock):
    """Opens readers on the job's one journal; the one before is closed, as a killed process's would be."""
    held = []

    def make(job, *, replay_only=False, folder="journal", segment_bytes=SEGMENT_BYTES) -> StepReader:
        for reader in held:
            reader.close()
        journal = Journal(tmp_path / folder, read_only=replay_only, segment_bytes=segment_bytes)
        letters = DeadLetters(None if replay_only else job.input.dead_letters)
        reader = StepReader(job, open_inlets(job), journal, letters, replay_only=replay_only, clock=clock)
        held[:] = [reader]
        return reader

    yield make
    for reader in held:
        reader.close()
