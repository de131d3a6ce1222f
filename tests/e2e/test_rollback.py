"""Going back to an earlier version, as a user types it: what is served, what is trained next, what may go wrong."""

from __future__ import annotations

import re
import shutil
import signal
from datetime import UTC, datetime

import msgspec
import pytest

from monolith.config.load import load_job
from monolith.errors import ConfigError
from monolith.serving.store import open_store
from monolith.streaming.journal import held
from monolith.streaming.source import open_sink
from monolith.training import rollback
from monolith.training.rollback import kept
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots
from monolith.training.start import read_start
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e


OFTEN = {"milestone_every_s": 0.001, "keep_milestones": 50, "snapshot_every_s": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, kit_class):
    """A run of two sittings of 600 events each, with milestones of both; the trainer is stopped."""
    kit = kit_class(tmp_path_factory.mktemp("run"))
    kit.urls = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    kit.rows = kit.events(1_200, seed=5)
    kit.path, kit.state = kit.job("run", input={"follow": True}, train=OFTEN), kit.folder / "run/state"
    first = _sitting(kit, 0, 600)
    kit.good = _served(f"lmdb://{kit.folder}/run/store")
    kit.ends = [first, _sitting(kit, 600, 1_200)]
    return kit


@pytest.fixture
def shop(run, request):
    """A copy of that run for a test of its own."""
    name = re.sub(r"\W+", "_", request.node.name)
    shutil.copytree(run.folder / "run", run.folder / name, symlinks=True)
    run.path, run.state = run.job(name, input={"follow": True}, train=OFTEN), run.folder / name / "state"
    run.store = f"lmdb://{run.folder}/{name}/store"
    return run


def _served(url: str) -> dict[str, tuple[bytes, bytes]]:
    """Every table's ids and rows in the store."""
    store = open_store(url, "e2e")
    try:
        tables = store.image().delta.tables
        return {name: (table.ids.tobytes(), table.values.tobytes()) for name, table in tables.items()}
    finally:
        store.close()


def _sitting(kit, begin: int, end: int) -> int:
    """Train on these events until all is read, then stop; the step that was reached."""
    features, actions = kit.rows
    times = (features[begin][2] if begin else 0, features[end - 1][2])
    chosen = [row for row in actions if times[0] <= row[2] <= times[1]]
    for url, rows in zip(kit.urls, (features[begin:end], chosen), strict=True):
        sink = open_sink(url)
        sink.append(rows)
        sink.close()
    before = read_status(kit.state / "status.json")
    wanted = len(chosen) + end - begin + (before.streams.records if before else 0)
    _trained(kit, lambda status: status.streams.records == wanted)
    return read_status(kit.state / "status.json").step


def _trained(kit, is_enough=lambda _: True) -> None:
    """Train until its status is enough, then stop."""
    process = kit.spawn("train", kit.path)

    def is_there() -> bool:
        status = read_status(kit.state / "status.json")
        return status is not None and status.pid == process.pid and is_enough(status)

    kit.wait(is_there, "the trainer to come so far")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, kit.output()


def _back(kit, *words: object) -> str:
    ended = kit.run("rollback", kit.path, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _good(kit):
    """The newest snapshot of the first sitting."""
    return next(one for one in kept(kit.state) if one.step == kit.ends[0])


def test_an_earlier_version_is_served_again_and_trained_on_from(shop):
    assert _served(shop.store) != shop.good
    listed, good = _back(shop), _good(shop)
    assert f"{good.step:,} " in listed
    assert "milestone" in listed
    said = _back(shop, "--to", good.step)
    assert f"monolith rollback to {good.path}" in said
    assert "taken         table user" in said
    assert "the store has sequence" in said
    assert _served(shop.store) == shop.good
    (aside,) = (shop.state / "rolled_back").iterdir()
    assert str(aside) in said
    assert {path.name for path in aside.iterdir()} >= {"journal", "snapshots", "status.json"}

    trained = shop.run("train", shop.path, "--set", "input.follow=false")
    assert trained.returncode == 0, trained.stderr
    assert read_status(shop.state / "status.json").streams.records > 600, "what came since is read again"
    seen = shop.run("inspect", shop.store, "--model", "e2e", "--against", shop.state)
    assert "0 missing, 0 stale, 0 zombie" in seen.stdout
    again = datetime.fromtimestamp(good.written_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert f"monolith rollback to {good.path}" in _back(shop, "--to", again), "milestones outlive a rollback"
    assert _served(shop.store) == shop.good


def test_what_came_since_can_be_left_out(shop):
    said = _back(shop, "--to", shop.ends[0], "--from-now")
    assert "from its end: partition 0 at 1,200" in said
    assert _served(shop.store) == shop.good
    _trained(shop)
    assert read_status(shop.state / "status.json").streams.records == 0


def test_a_stream_that_was_made_anew_since_is_read_from_its_beginning(shop):
    features = shop.folder / "features"
    features.rename(shop.folder / "before")
    open_sink(shop.urls[0]).close()
    try:
        said = _back(shop, "--to", shop.ends[0])
        assert f"new           stream {shop.urls[0]}: it was made anew since" in said
        assert _served(shop.store) == shop.good
    finally:
        shutil.rmtree(features)
        (shop.folder / "before").rename(features)


def test_what_cannot_be_is_refused_and_touches_nothing(shop):
    before = sorted(path for path in shop.state.rglob("*"))
    for words, says in (
        (("--to", "999999"), "no snapshot is kept of that; the oldest is step"),
        (("--to", "1999-01-01"), "no snapshot is kept of that"),
        (("--to", "yesterday"), "is no time"),
        (("--from-now",), "give --to as well"),
    ):
        ended = shop.run("rollback", shop.path, *words)
        assert ended.returncode == 1
        assert says in ended.stderr
    damaged = _good(shop).path / "dense.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    ended = shop.run("rollback", shop.path, "--to", shop.ends[0])
    assert "CorruptError" in ended.stderr
    assert sorted(path for path in shop.state.rglob("*")) == before
    (shop.folder / "actions").rename(shop.folder / "away")
    ended = shop.run("rollback", shop.path, "--to", shop.ends[1], "--from-now")
    (shop.folder / "away").rename(shop.folder / "actions")
    assert ended.returncode == 1
    assert "actions" in ended.stderr
    assert sorted(path for path in shop.state.rglob("*")) == before
    with held(shop.state / "journal"):
        ended = shop.run("rollback", shop.path, "--to", shop.ends[1])
    assert "in use by process" in ended.stderr


@pytest.mark.parametrize("dies", ["as it puts aside", "as it ends"])
def test_a_rollback_that_died_is_ended_by_the_next_and_no_trainer_runs_before(shop, monkeypatch, dies):
    class Died(Exception):
        pass

    def died(*_: object, **__: object) -> None:
        raise Died

    good = _good(shop)
    if dies == "as it puts aside":
        moved = rollback._put_aside

        def at_the_second(path, target):
            moved(path, target) if path.name == "journal" else died()

        monkeypatch.setattr(rollback, "_put_aside", at_the_second)
    else:
        monkeypatch.setattr(rollback, "sync_folder", lambda folder: died() if folder == shop.state else None)
    with pytest.raises(Died):
        rollback.roll_back(load_job(shop.path, []), good.path)
    monkeypatch.undo()
    assert rollback.is_under_way(shop.state)
    refused = shop.run("train", shop.path)
    assert refused.returncode == 1
    assert "a rollback of" in refused.stderr
    assert "was interrupted" in refused.stderr
    assert "was interrupted" in shop.run("check", shop.path).stdout
    assert "was interrupted" in shop.run("rollback", shop.path, "--to", shop.ends[0]).stderr
    said = _back(shop)
    assert "going on with the rollback that was interrupted" in said
    assert _served(shop.store) == shop.good
    assert read_start(shop.state) is not None


def test_a_folder_without_snapshots_says_what_keeps_some(kit):
    ended = kit.run("rollback", kit.job("none"))
    assert ended.returncode == 1
    assert "train.milestone_every_s" in ended.stderr
    assert not (kit.folder / "none/state").exists()


def test_what_was_never_published_cannot_be_served(kit):
    manifest = Manifest(version=SNAPSHOT_VERSION, model="e2e", lineage="run", step=3, sequence=0, job={})
    job = kit.job("new")
    Snapshots(kit.folder / "new/state/snapshots").write(manifest, {"clock.bin": msgspec.msgpack.encode((0, True))})
    ended = kit.run("rollback", job, "--to", 3)
    assert ended.returncode == 1
    assert "step 3 is from before the first publish" in ended.stderr
    assert not (kit.folder / "new/state/rollback.json").exists()


def test_check_raises_for_a_marked_folder(tmp_path):
    (tmp_path / rollback.MARK).write_text("{}")
    with pytest.raises(ConfigError, match="brings it to its end"):
        rollback.check_no_rollback(tmp_path)
