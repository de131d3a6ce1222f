"""A rank is lost and the others keep their newer rows: what goes back, what stays, and what a store and a replay say.

``MONOLITH_RANK_KILLS=50`` is the long form of the test that kills ranks again and again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rank_jobs import SHARING
from rank_processes import pids_of, steps_of

from monolith.commands.inspect_state import folder_lines
from monolith.commands.parity import against_snapshot
from monolith.streaming.journal import Journal
from monolith.tables import Table
from monolith.tables.snapshot import TableFile
from monolith.tables.split import buckets_of
from monolith.training.sharding.rescue import Rescue, found
from monolith.training.snapshot import Snapshot, Snapshots, open_snapshot

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("MONOLITH_RANK_KILLS", "2"))
TABLES = [
    {"name": "user", "dim": 9, "expiry": {"kind": "idle", "ttl_s": 10_000_000}},
    {"name": "item", "dim": 9, "optimizer": {"kind": "adam"}, "admission": {"kind": "min_count", "count": 2}},
    {"name": "tags", "dim": 9, "optimizer": {"kind": "rowwise_adagrad"}, "pooling": "mean"},
]
OTHER_KINDS = [
    {"name": "user", "dim": 6, "kind": "qr", "rows": 200, "optimizer": {"kind": "adam"}},
    {"name": "item", "dim": 6, "kind": "hashed", "rows": 60},
    {"name": "both", "dim": 3, "kind": "unified", "rows": 150, "features": ["user", "tags"], "probes": {"tags": 2}},
    {"name": "narrow", "dim": 5, "kind": "optembed", "width": 2, "features": ["item"]},
    *SHARING,
]
TRAIN = {"publish_every_s": 0.0, "step_linger_s": 30.0, "keep_journal": True, "snapshot_every_s": 1e9, "batch_size": 8}


def job(kit, name: str, **settings) -> Path:
    sharding = {"timeout_s": 60, "partial_recovery": True}
    return kit.job(name, **{"tables": TABLES, "train": TRAIN, "sharding": sharding, **settings})


@pytest.fixture(scope="module")
def begun(tmp_path_factory, kit_class):
    """A job on two ranks that came to the end of its streams, which have more by now."""
    kit = kit_class(tmp_path_factory.mktemp("lost"))
    streams = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    kit.fill(*streams, count=300)
    ended = kit.run("train", job(kit, "begun"), "--workers", 2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    kit.fill(*streams, count=1500, seed=6)
    return kit


def goes_on(kit, name: str) -> tuple[Path, Path, Snapshot]:
    """A copy of the job that begun: its file, its state folder, and its newest snapshot."""
    shutil.copytree(kit.folder / "begun", kit.folder / name)
    state = kit.folder / name / "state"
    snapshot = Snapshots(state / "snapshots").newest()
    assert snapshot is not None
    return job(kit, name), state, snapshot


def loses(kit, path: Path, state: Path, ranks: int, lost: int) -> Rescue:
    """Run the job, kill one rank at a random moment, and give what the others left."""
    before = steps_of(state)
    daemon = kit.spawn("train", path, "--workers", ranks, "--max-restarts", 0)
    kit.wait(lambda: steps_of(state) > before + 2 or daemon.poll() is not None, "new steps", 120)
    try:
        daemon.wait(random.Random(lost).uniform(0.0, 0.2))
    except subprocess.TimeoutExpired:
        os.kill(pids_of(path)[lost], signal.SIGKILL)
    assert daemon.wait(120) == 1, kit.output()[-4000:]
    assert f"UnavailableError: the {ranks} processes ended, and are not started again" in kit.output()
    assert "Traceback" not in kit.output()
    rescue = found(state)
    assert rescue is not None, kit.output()[-4000:]
    return rescue


@pytest.mark.parametrize(("ranks", "lost"), [(2, 1), (2, 0), (3, 2)], ids=["follower", "rank 0", "one of three"])
def test_the_others_keep_their_rows_and_the_lost_ones_go_back_to_the_snapshot(begun, ranks, lost):
    kit, run = begun, f"{lost}of{ranks}"
    path, state, before = goes_on(kit, run)
    rescue = loses(kit, path, state, ranks, lost)
    assert rescue.lost == [lost]
    assert before.manifest.step < rescue.step <= steps_of(state)
    kept = shutil.copytree(rescue.folder, kit.folder / run / "kept")
    old = rows_of(before)

    ended = kit.run("train", path, "--workers", ranks)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert f"partial recovery: after step {rescue.step} the run went on" in ended.stderr
    assert not (state / "rescue").exists()
    made = [steps_made(kept / f"{rank:04d}") for rank in rescue.left]
    assert all(len(of_rank) == 1 for of_rank in made), "a rank's tables stood half way through a step"
    assert np.ptp([of_rank.pop() for of_rank in made]) <= 1, "ranks stood more than one batch apart"
    changed = 0
    for name, rows in rows_of(open_snapshot(state / "snapshots" / f"{rescue.step:012d}")).items():
        parts = [part_in(kept / f"{rank:04d}" / name) for rank in rescue.left]
        stayed = {key: row for part in parts for key, row in by_id(part).items()}
        others = np.concatenate([[*part.buckets] for part in parts])
        gone_back = {key: row for key, row in old[name].items() if buckets_of(np.array([key]))[0] not in others}
        assert rows == stayed | gone_back, name
        assert gone_back
        changed += sum(old[name].get(key) != row for key, row in stayed.items())
    assert changed
    (entry,) = Journal(state / "journal", read_only=True).recoveries
    assert (entry.recovered_after, entry.snapshot, entry.lost) == (rescue.step, before.manifest.step, [lost])
    assert against_snapshot(f"lmdb://{kit.folder / run / 'store'}", "e2e", state).exact
    assert f"  {entry}" in folder_lines(state)
    if ranks == 3:
        return
    replayed = kit.run("replay", path, "--state", kit.folder / run / "again")
    assert replayed.returncode == 1
    assert f"the run's bits cannot be repeated from step 1 on: after step {rescue.step}" in replayed.stderr


def test_a_run_that_loses_ranks_again_and_again_trains_on_and_its_store_has_its_rows(kit, capsys):
    """With tables of other kinds."""
    killed, rng, state = 0, random.Random(3), kit.folder / "again" / "state"
    streams = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    kit.fill(*streams, count=1800 if KILLS < 10 else 400 * KILLS)
    model = {"kind": "mlp", "hidden": [16, 8]}
    path = job(kit, "again", tables=OTHER_KINDS, model=model, train={**TRAIN, "snapshot_every_s": 0.4})
    daemon = kit.spawn("train", path, "--workers", 2, "--max-restarts", 2 * KILLS + 5)
    kit.wait(lambda: Snapshots(state / "snapshots").steps() or daemon.poll() is not None, "a snapshot", 120)
    while killed < KILLS and daemon.poll() is None:
        kit.wait(lambda: len(pids_of(path)) == 2 or daemon.poll() is not None, "two ranks", 120)
        before = steps_of(state)
        if killed % 5 != 4:  # else they may die while they start
            kit.wait(lambda b=before: steps_of(state) > b + 1 or daemon.poll() is not None, "new steps", 120)
        try:
            daemon.wait(rng.uniform(0.0, 0.3))
        except subprocess.TimeoutExpired:
            if rank := pids_of(path).get(rng.randrange(2)):
                os.kill(rank, signal.SIGKILL)
                killed += 1
                kit.wait(lambda r=rank: r not in pids_of(path).values() or daemon.poll() is not None, "the rank's end")
    assert daemon.wait(300) == 0, kit.output()[-4000:]
    recoveries = Journal(state / "journal", read_only=True).recoveries
    assert recoveries, kit.output()[-4000:]
    assert against_snapshot(f"lmdb://{kit.folder / 'again' / 'store'}", "e2e", state).exact
    with capsys.disabled():
        print(f"\n  killed {killed} ranks, {len(recoveries)} partial recoveries")
        print("".join(f"  {line}\n" for line in kit.output().splitlines() if "partial recovery:" in line))


def rows_of(snapshot: Snapshot) -> dict[str, dict[int, bytes]]:
    """Every row of the tables, by id."""
    return {name: by_id(Table.open(folder)) for name, folder in snapshot.tables().items()}


def part_in(folder: Path) -> Table:
    """The one part of a table that a rank left."""
    (path,) = folder.glob("*/table.bin")
    with TableFile(path.parent) as file:
        return Table.open(path.parent, buckets=file.held)


def steps_made(folder: Path) -> set[int]:
    """How many optimizer steps each table of a rank had made."""
    return {part_in(each).native.clockwork().steps for each in folder.iterdir() if each.is_dir()}


def by_id(table: Table) -> dict[int, bytes]:
    ids, values = table.rows()
    return {int(key): row.tobytes() for key, row in zip(ids, values, strict=True)}
