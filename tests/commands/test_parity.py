"""A store and a snapshot are compared where they are of one moment, and said to be apart where they are not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from monolith.commands.parity import Moment, against_snapshot, why_apart
from monolith.serving.store import open_store
from monolith.tables import Table, TableConfig
from monolith.tables.delta import ModelDelta
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots

HERE = Moment("run", 5, 10, "d1")


@pytest.mark.parametrize(
    ("store", "snapshot", "says"),
    [
        (HERE, HERE, None),
        (HERE, Moment("run", 5, 12, "d1"), None),  # steps without samples since
        (Moment("run", 5, 10, ""), HERE, None),
        (Moment("other", 5, 10, "d1"), HERE, "is of run other, the snapshot of run run"),
        (Moment("run", 6, 12, "d2"), HERE, "published after the snapshot"),
        (Moment("run", 4, 8, "d0"), HERE, "lacks what was published last"),
        (HERE, Moment("run", 5, 12, "d1", trained_on=True), "trained on between its last publish and the snapshot"),
        (Moment("run", 5, 10, "d9"), HERE, "made from other steps"),
    ],
)
def test_moments_are_apart_by_run_sequence_rest_and_digest(store, snapshot, says):
    apart = why_apart(store, snapshot)
    assert apart is None if says is None else says in apart


class Trained:
    """One table, published to a store and kept in a snapshot."""

    def __init__(self, folder: Path, card) -> None:
        self.folder, self.card = folder, card
        self.table = Table(TableConfig(name="user", dim=3))
        self.store = open_store(f"lmdb://{folder}/store", "demo")
        self.generation = self.store.take_over(card).generation

    def learn(self, *ids: int) -> None:
        self.table.observe(np.array(ids), event_time_ms=1000)
        self.table.apply_gradients(np.array(ids), np.ones((len(ids), 3), np.float32))

    def publish(self) -> int:
        sequence = self.table.cut()
        dense = save({"bias": np.zeros(1, np.float32)})
        delta = ModelDelta(0, sequence, sequence, 1000, {"user": self.table.delta(0)}, dense)
        self.store.apply(delta, self.generation, self.card.lineage)
        return sequence

    def keep(self, step: int, sequence: int, *, clean: bool) -> None:
        def save_tables(folder: Path) -> None:
            (folder / "user").mkdir()
            self.table.save(folder / "user")

        history = msgspec.msgpack.encode([1, bytes(16), sequence, b""])
        parts = {"tables": save_tables, "clock.bin": msgspec.msgpack.encode((1000, clean)), "history.bin": history}
        manifest = Manifest(
            version=SNAPSHOT_VERSION, model="demo", lineage=self.card.lineage, step=step, sequence=sequence, job={}
        )
        Snapshots(self.folder / "state" / "snapshots").write(manifest, parts)

    def report(self):
        return against_snapshot(f"lmdb://{self.folder}/store", None, self.folder / "state")


@pytest.fixture
def trained(tmp_path, model):
    trained = Trained(tmp_path, model.card)
    trained.learn(1, 2, 3)
    trained.sequence = trained.publish()
    yield trained
    trained.store.close()


def test_snapshot_of_the_publish_is_compared_row_by_row(trained):
    trained.keep(7, trained.sequence, clean=True)
    report = trained.report()
    assert report.exact
    assert list(report.lines()) == [
        "store at sequence 1, step 1; snapshot at sequence 1, step 7",
        "  table user: 3 equal, 0 missing, 0 stale, 0 zombie",
    ]


def test_snapshot_that_was_trained_on_counts_no_stale_rows(trained):
    trained.learn(2, 4)
    trained.keep(7, trained.sequence, clean=False)
    report = trained.report()
    assert not report.exact
    assert report.tables == {}
    assert "of different moments, so rows were not compared: the trainer trained on" in "\n".join(report.lines())


def test_store_that_was_published_to_after_the_snapshot_counts_no_stale_rows(trained):
    trained.keep(7, trained.sequence, clean=True)
    trained.learn(2, 4)
    trained.publish()
    assert "store at sequence 2, step 2; snapshot at sequence 1, step 7" in next(trained.report().lines())
    assert not trained.report().exact
