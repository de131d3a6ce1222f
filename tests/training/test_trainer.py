"""The trainer moves a learner along steps, cuts deltas where they say so, and goes on from a snapshot bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from batches import batch_of

from monolith.commands.compare import compare_snapshots
from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig, TrainConfig
from monolith.config.admission import MinCount
from monolith.config.eviction import LFU
from monolith.config.expiry import Idle
from monolith.config.optimizers import Adam
from monolith.errors import ConfigError, FencedError, NoSamplesError, UnavailableError
from monolith.serving.publisher import Publisher
from monolith.serving.store import Store, open_store
from monolith.streaming.progress import Progress
from monolith.tables.batch import Batch
from monolith.training.learner import Learner
from monolith.training.snapshot import Snapshots
from monolith.training.status import StatusFile, read_status
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


def test_a_restored_trainer_goes_on_bit_by_bit(tmp_path):
    whole = trainer(tmp_path / "whole", made_steps())
    whole.run()
    first = trainer(tmp_path / "parts", made_steps())
    for _ in range(17):
        first.advance(first.steps.next(0))
    first.snapshot()
    second = trainer(tmp_path / "parts", made_steps())
    second.restore(Snapshots(tmp_path / "parts").newest())
    second.run()
    assert second.step == 40
    assert compare_snapshots(whole.snapshots.path(40), second.snapshots.path(40)) == []


def test_a_file_that_no_earlier_snapshot_has_makes_the_trainer_write_all_of_it(tmp_path):
    steps = KeptSteps(made_steps().steps)
    first = trainer(tmp_path, steps)
    for _ in range(3):
        first.advance(steps.next(0))
        first.snapshot()
    assert steps.wholes == 1
    newest = Snapshots(tmp_path).newest()
    assert (newest.manifest.step, newest.read("joiner/rows")) == (3, b"rows")


def test_a_store_gets_each_sequence_once_and_ends_with_the_trainers_rows(tmp_path):
    store = Rows()
    first = trainer(tmp_path, made_steps(), store)
    for _ in range(10):
        first.advance(first.steps.next(0))
    first.snapshot()
    for _ in range(10):  # lost with the process, but published
        first.advance(first.steps.next(0))
    assert store.held_sequence == 6
    second = trainer(tmp_path, made_steps(39), store)
    second.restore(Snapshots(tmp_path).newest())
    second.run()
    assert [sequence for _, sequence in store.seen] == list(range(1, 14))
    for name, table in second.learner.tables.items():
        ids, values = table.rows()
        in_store = store.rows[name]
        if name == "user":  # sweeping is incremental: the store may still hold what expired a moment ago
            assert set(ids.tolist()) <= set(in_store)
        assert all(in_store[row_id] == row.tobytes() for row_id, row in zip(ids.tolist(), values, strict=True))


def test_a_store_that_was_away_too_long_gets_an_image(tmp_path):
    store = open_store(f"lmdb://{tmp_path / 'store'}", "t")
    one = trainer(tmp_path / "snapshots", made_steps(6), Publisher(store))
    one.publisher.start(one.learner.card("run"))
    for _ in range(3):
        one.advance(one.steps.next(0))
    first_image = store.version().image
    for _ in range(5000):  # past the tables' memory of what they removed
        one.sequence = one.learner.cut()
    one.run()
    assert store.version().sequence == one.sequence
    assert store.version().image != first_image
    assert {name: len(part.ids) for name, part in store.image().delta.tables.items()} == {
        name: len(table) for name, table in one.learner.tables.items()
    }
    store.close()


class Away:
    """A store that can be out of reach."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.away = inner, True

    def __getattr__(self, name):
        def refuse(*_):
            raise UnavailableError("connection refused")

        return refuse if self.away and name in ("take_over", "apply", "look") else getattr(self.inner, name)


def test_a_job_that_ends_while_its_store_is_away_says_so_and_publishes_when_it_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr("monolith.training.trainer.DRAIN_S", 0.0)
    store = Away(open_store(f"lmdb://{tmp_path / 'store'}", "t"))

    def start() -> Trainer:
        one = trainer(tmp_path / "snapshots", made_steps(6), Publisher(store))
        one.status = StatusFile(tmp_path / "status.json")
        if newest := one.snapshots.newest():
            one.restore(newest)
        one.publisher.start(one.learner.card("run"))
        return one

    says = r"not published: .* sequence 2 in 0 s \(known to be there: nothing\)\. .*/000000000006 has it all: start"
    for _ in range(2):
        with pytest.raises(UnavailableError, match=says):
            start().run()
        assert read_status(tmp_path / "status.json").ended
    store.away = False
    again = start()
    again.run()
    assert (again.step, store.version().sequence) == (6, 2)
    for name, table in again.learner.tables.items():
        delta = store.image().delta.tables[name]
        assert delta.ids.tobytes() == table.delta(0).ids.tobytes()
        assert delta.values.tobytes() == table.delta(0).values.tobytes()
    store.close()


def test_a_store_that_lost_everything_in_a_quiet_time_gets_it_back(tmp_path):
    store = Rows()
    one = trainer(tmp_path, QuietSteps(made_steps(6).steps, store), store)
    one.run()
    assert store.held_sequence == one.sequence == 2
    assert store.seen == [(0, 1), (1, 2), (0, 2)]


def test_a_store_that_lost_everything_while_rows_wait_for_a_publish_gets_them_by_a_step_of_their_own(tmp_path):
    store = Rows()
    one = trainer(tmp_path, QuietSteps(made_steps(5).steps, store), store)  # the steps 4 and 5 publish nothing
    one.run()
    assert store.seen == [(0, 1), (0, 2)]
    assert store.held_sequence == one.sequence == 2
    assert one.snapshots.steps() == [6]
    for name, table in one.learner.tables.items():
        delta = table.delta(0)
        rows = {key: row.tobytes() for key, row in zip(delta.ids.tolist(), delta.values, strict=True)}
        assert rows == store.rows[name]


def test_a_run_that_had_ended_brings_a_store_that_lacks_it_up_to_date_at_its_next_start(tmp_path):
    trainer(tmp_path, made_steps(6), Rows()).run()
    store = Rows()
    again = trainer(tmp_path, made_steps(6), store)
    again.restore(Snapshots(tmp_path).newest())
    again.run()
    assert store.seen == [(0, 2)]


def test_every_turn_of_the_loop_gives_a_sign_of_life(tmp_path):
    """Busy or quiet, and also while rows changed that no publish is due for."""
    store = Rows()
    one = trainer(tmp_path, QuietSteps(made_steps(5).steps, store), store)
    one.run()
    assert store.beats == 5 + 3 + 1  # steps, quiet turns, the end


def test_positions_are_committed_after_a_snapshot_only(tmp_path):
    one = trainer(tmp_path, made_steps(5))
    one.run()
    assert one.steps.committed == [5]


def test_the_journal_is_trimmed_behind_the_oldest_snapshot_that_is_kept(tmp_path):
    """Not behind the newest: if that is damaged, the one before it is restored, and asks for the steps after it."""
    one = trainer(tmp_path, made_steps(4))
    for _ in range(4):
        one.advance(one.steps.next(0))
        one.snapshot()
    assert one.snapshots.steps() == [3, 4]
    assert one.steps.trimmed == [2, 2, 3, 4]


def test_a_snapshot_of_another_run_is_refused(tmp_path):
    trainer(tmp_path, made_steps(3)).run()
    other = trainer(tmp_path, made_steps(3), lineage="other")
    with pytest.raises(ConfigError, match="run run; this job is 't', run other"):
        other.restore(Snapshots(tmp_path).newest())


def test_stop_ends_with_a_snapshot(tmp_path):
    one = trainer(tmp_path, made_steps(5))
    one.stop()
    one.advance(one.steps.next(0))
    one.run()
    assert one.snapshots.steps() == [1]


def test_stop_publishes_what_the_snapshot_holds(tmp_path):
    store = Rows()
    one = trainer(tmp_path, made_steps(5), store)
    one.advance(one.steps.next(0))
    one.stop()
    one.run()
    assert one.snapshots.steps() == [2]  # the step that publishes
    assert store.held_sequence == one.sequence == 1
    for name, table in one.learner.tables.items():
        delta = table.delta(0)
        rows = {key: row.tobytes() for key, row in zip(delta.ids.tolist(), delta.values, strict=True)}
        assert rows == store.rows[name]


def test_stop_after_a_publish_adds_no_step(tmp_path):
    store = Rows()
    one = trainer(tmp_path, made_steps(5), store)
    for _ in range(3):
        one.advance(one.steps.next(0))
    one.stop()
    one.run()
    assert (one.snapshots.steps(), store.seen) == ([3], [(0, 1)])


def test_stop_while_the_store_is_away_ends_in_a_snapshot(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("monolith.training.trainer.STOP_S", 0.0)
    store = Away(open_store(f"lmdb://{tmp_path / 'store'}", "t"))
    one = trainer(tmp_path / "snapshots", made_steps(5), Publisher(store))
    one.publisher.start(one.learner.card("run"))
    one.advance(one.steps.next(0))
    one.stop()
    one.run()
    assert one.snapshots.steps() == [2]
    assert "stopped without the store" in caplog.text
    store.close()


def test_trainer_that_another_one_took_the_store_from_still_keeps_its_snapshot_when_it_stops(tmp_path):
    store, other = (open_store(f"lmdb://{tmp_path / 'store'}", "t") for _ in range(2))
    one = trainer(tmp_path / "snapshots", made_steps(5), Publisher(store))
    one.publisher.start(one.learner.card("run"))
    one.advance(one.steps.next(0))
    other.take_over(one.learner.card("run"))
    one.stop()
    with pytest.raises(FencedError):
        one.run()
    assert one.snapshots.steps() == [2]
    store.close()
    other.close()


def test_the_status_file_says_where_it_is(tmp_path):
    one = trainer(tmp_path / "s", made_steps(4))
    one.status = StatusFile(tmp_path / "status.json", every_s=0.0)
    one.run()
    status = read_status(tmp_path / "status.json")
    assert (status.step, status.samples, status.lag, status.ended) == (4, 80, 0, True)
    assert status.tables["user"]["rows"] > 0


def test_a_run_without_a_sample_publishes_nothing_and_fails_when_its_streams_end(tmp_path):
    store = Rows()
    empty = FixedStep(1, made_steps(1).steps[0].batch[:0], 10_000, publish=True)
    fruitless = trainer(tmp_path, FixedSteps([empty]), store)
    with pytest.raises(NoSamplesError, match="hold no record"):
        fruitless.run()
    assert (store.seen, fruitless.snapshots.steps()) == ([], [])
