"""A store is believed by what its sequence was made from: after any restore it ends with the bits of the trainer.

Each test ends in the same proof: what the store serves is, bit for bit, what the trainer that wrote last would send.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import msgspec
import pytest

from monolith.commands.assembly import run_eras
from monolith.config.load import load_job
from monolith.serving.packed import pack_delta
from monolith.serving.store import open_store
from monolith.streaming.journal import Journal
from monolith.streaming.source import open_sink
from monolith.training.snapshot import MANIFEST, Manifest, open_snapshot
from monolith.training.trainer import Trainer

KINDS = ["lmdb", pytest.param("redis", marks=pytest.mark.service)]
STEADY = {"publish_every_s": 0.0, "step_linger_s": 30.0, "snapshot_every_s": 1e9, "step_records": 32}


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    """The URL of an empty store."""
    return f"lmdb://{tmp_path}/store" if request.param == "lmdb" else request.getfixturevalue("redis_server").url


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Where exported graphs are kept from test to test: an export takes seconds."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def run(kit, url, graphs):
    run = Run(kit, url)
    run.state.mkdir(parents=True)
    _copy_graphs(graphs, run.state)
    yield run
    _copy_graphs(run.state, graphs)


class Run:
    """One job over a log of 1,200 events, of which every step publishes."""

    def __init__(self, kit, url: str) -> None:
        self.kit, self.url = kit, url
        kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_200)
        self.job = kit.job("run", train=STEADY, store=url)
        self.state = kit.folder / "run" / "state"

    def go(self, steps: int | None = None, *, snapshot: bool = True, settings: tuple[str, ...] = (), **options) -> int:
        """Train ``steps`` steps more (None: to the end) and be killed, after a snapshot if asked for; the sequence."""

        def run(trainer: Trainer) -> None:
            if steps is None:
                trainer.run()
                self.expected = pack_delta(trainer._delta(0), "float32")
                return
            for _ in range(steps):
                trainer.advance(trainer.steps.next(5.0))
            if snapshot:
                trainer.snapshot()

        return run_eras(load_job(self.job, list(settings)), run, **options).sequence

    def keep(self, name: str) -> None:
        """Copy the state folder, as a backup does."""
        shutil.copytree(self.state, self.kit.folder / name)

    def restore(self, name: str) -> None:
        """Put a copy in the state folder's place."""
        shutil.rmtree(self.state)
        shutil.copytree(self.kit.folder / name, self.state)

    def version(self):
        return self._ask(lambda store: store.version())

    def is_exact(self) -> bool:
        """Whether the store serves what the trainer that ended would send."""
        image = self._ask(lambda store: store.image().delta)
        assert (image.sequence, image.step, image.dense) == (
            self.expected.sequence,
            self.expected.step,
            self.expected.dense,
        )
        return all(
            (mine.ids.tobytes(), mine.packed.tobytes())
            == (self.expected.tables[name].ids.tobytes(), self.expected.tables[name].packed.tobytes())
            for name, mine in image.tables.items()
        )

    def _ask(self, question):
        store = open_store(self.url, "e2e", create=False)
        try:
            return question(store)
        finally:
            store.close()


OTHER_CUTS = ("train.step_records=21",)


def test_state_restored_from_a_backup_that_runs_on_with_other_steps_sends_an_image(run, caplog):
    run.go(10)
    run.keep("backup")
    run.go(10)
    held = run.version()
    run.restore("backup")
    run.go(settings=OTHER_CUTS)
    after = run.version()
    assert run.is_exact()
    assert after.lineage.startswith(f"{held.lineage}.")
    assert "the store gets an image, as revision" in caplog.text
    assert f"holds sequence {held.sequence}, the step journal ends at sequence" in caplog.text


def test_store_that_is_further_than_the_restored_run_will_ever_be_steps_back(run):
    run.go(10)
    run.keep("backup")
    run.go(25)
    held = run.version()
    run.restore("backup")
    run.go(settings=("train.step_records=600",))
    assert run.version().sequence < held.sequence
    assert run.is_exact()


def test_crash_and_restart_send_no_image(run, caplog):
    """Pending steps are made again under the digests that the store has: known, and then deltas."""
    caplog.set_level(logging.INFO)
    run.go(10)
    run.go(7, snapshot=False)
    held = run.version()
    run.go(3, snapshot=False)  # killed while it makes the pending steps again
    assert run.version() == held
    run.go()
    assert (run.version().image, run.version().lineage) == (held.image, held.lineage)
    assert run.is_exact()
    assert "the store gets an image" not in caplog.text


def test_after_a_revision_a_restart_goes_on_in_it_without_another_image(run):
    run.go(10)
    run.keep("backup")
    run.go(10)
    run.restore("backup")
    run.go(5, settings=OTHER_CUTS)
    revision = run.version()
    run.go(5, snapshot=False, settings=OTHER_CUTS)
    run.go(settings=OTHER_CUTS)
    assert (run.version().image, run.version().lineage) == (revision.image, revision.lineage)
    assert run.is_exact()


def test_pending_steps_that_lost_records_send_an_image(run, caplog):
    run.go(5)
    run.go(15, snapshot=False)
    held = run.version()
    sink = open_sink(f"log://{run.kit.folder / 'features'}?retain_bytes=1")
    sink.append([(b"k", b"not an event", 1_700_000_000_000)])
    sink.close()
    run.go(settings=("input.on_data_loss=skip",))
    assert run.version().lineage != held.lineage
    assert run.is_exact()
    assert "made from other steps than this trainer's" in caplog.text


def test_pending_steps_are_made_again_under_their_own_settings_and_send_no_image(run, caplog):
    run.go(10)
    run.go(7, snapshot=False)
    held = run.version()
    run.go(settings=("tables.user.optimizer.lr=0.5", "train.batch_size=8"))
    assert run.is_exact()
    assert (run.version().image, run.version().lineage) == (held.image, held.lineage)
    assert list(Journal(run.state / "journal", read_only=True).settings) == [1, 18]
    assert "the store gets an image" not in caplog.text


def test_journal_that_lost_its_last_steps_sends_an_image(run):
    """As after a power cut on a disk that lied, or a journal restored without the newest file."""
    run.go(10)
    shutil.copytree(run.state / "journal", run.kit.folder / "journal")
    run.go(10, snapshot=False)
    shutil.rmtree(run.state / "journal")
    shutil.copytree(run.kit.folder / "journal", run.state / "journal")
    run.go(settings=OTHER_CUTS)
    assert run.is_exact()


def test_two_restores_of_one_backup_each_fill_the_store_that_they_took_over(run):
    run.go(10)
    run.keep("backup")
    run.go()
    calm = run.version()
    assert run.is_exact()
    run.restore("backup")
    run.go(settings=OTHER_CUTS)
    assert run.is_exact()
    assert run.version().generation > calm.generation
    run.restore("backup")
    run.go()
    assert run.is_exact()


def test_setting_changed_between_clean_stops_sends_no_image(run):
    run.go(10)
    held = run.version()
    run.go(settings=("tables.user.optimizer.lr=0.5",))
    assert run.version().image == held.image
    assert run.is_exact()


def test_snapshot_of_the_version_before_has_no_history_and_means_one_image(run):
    run.go(10)
    held = run.version()
    _as_version_1(run.state / "snapshots" / "000000000010")
    run.go(5)
    after = run.version()
    assert after.lineage != held.lineage
    run.go()
    assert (run.version().lineage, run.version().image) == (after.lineage, after.image)
    assert run.is_exact()


def test_replay_that_publishes_to_the_runs_own_store_sends_nothing(run):
    run.go()
    held = run.version()
    again = (f"state={run.kit.folder / 'again'}",)
    run.go(settings=again, replay=run.state / "journal")
    assert (run.version().image, run.version().sequence) == (held.image, held.sequence)
    assert run.is_exact()


def test_replay_across_changed_settings_is_the_run_and_sends_nothing(run):
    run.go(10)
    run.go(settings=("tables.user.optimizer.lr=0.5",))
    held = run.version()
    again = (f"state={run.kit.folder / 'again'}", "tables.user.optimizer.lr=9")
    run.go(settings=again, replay=run.state / "journal")
    assert (run.version().image, run.version().sequence) == (held.image, held.sequence)
    assert run.is_exact()


class TestStoreFromABackup:
    """The store is restored and the trainer is not. LMDB: a folder is easily copied."""

    @pytest.fixture
    def url(self, tmp_path):
        return f"lmdb://{tmp_path}/store"

    def test_store_that_is_behind_on_the_same_way_gets_one_wider_delta(self, run, tmp_path):
        run.go(10)
        shutil.copytree(tmp_path / "store", tmp_path / "older")
        held = run.version()
        run.go(10)
        _replace(tmp_path / "store", tmp_path / "older")
        run.go()
        assert run.version().image == held.image
        assert run.is_exact()

    def test_store_of_another_branch_gets_an_image_even_where_it_is_behind(self, run, tmp_path):
        run.go(5)
        run.keep("backup")
        run.go(5, settings=OTHER_CUTS)
        shutil.copytree(tmp_path / "store", tmp_path / "branch")
        run.restore("backup")
        run.go(10)
        _replace(tmp_path / "store", tmp_path / "branch")
        run.go()
        assert run.is_exact()


def _copy_graphs(source: Path, target: Path) -> None:
    for graph in source.glob("graph-*.onnx"):
        shutil.copy(graph, target)


def _replace(folder: Path, by: Path) -> None:
    shutil.rmtree(folder)
    by.rename(folder)


def _as_version_1(path: Path) -> None:
    """Make a snapshot what the build before histories wrote."""
    manifest = open_snapshot(path).manifest
    (path / "history.bin").unlink()
    files = {name: entry for name, entry in manifest.files.items() if name != "history.bin"}
    older: Manifest = msgspec.structs.replace(manifest, version=1, files=files).sealed()
    (path / MANIFEST).write_text(json.dumps(msgspec.to_builtins(older)))
