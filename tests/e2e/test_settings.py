"""A run whose settings changed on its way is repeated to the same bits, wherever it was killed meanwhile."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monolith.commands.assembly import open_trainer, run_eras
from monolith.commands.compare import compare_snapshots, same_history
from monolith.config.load import load_job
from monolith.streaming.journal import Journal
from monolith.streaming.source import open_sink
from monolith.training.snapshot import Snapshots, open_snapshot

pytestmark = pytest.mark.e2e

LIVE = {"batch_size": 8, "step_records": 16, "snapshot_every_s": 1.0, "keep_journal": True, "keep_snapshots": 50}
STAGES: list[list[str]] = [
    [],
    ["train.batch_size=4", "tables.user.optimizer.lr=0.2", "dense_optimizer.lr=0.01", "train.sweep_rows=7"],
    [
        *["join.window_s=600", "tables.item.admission.count=3", "tables.user.expiry.ttl_s=900"],
        *["tables.user.eviction.max_rows=25", "train.threads=2"],
    ],
    [
        *["features=[{name: tags, type: string, bag: true}, {name: item, missing: own_row}]", "seed=9"],
        *["join.negative_rate=0.5", "tables.tags.pooling=sum", "input.max_out_of_order_s=30"],
    ],
]


def settings(stage: int) -> list[str]:
    """All changes up to ``stage``."""
    return [text for changes in STAGES[: stage + 1] for text in changes]


def words(stage: int) -> list[str]:
    """The same as the command's options."""
    return [word for text in settings(stage) for word in ("--set", text)]


def replay(job: Path, state: Path, again: Path, start: Path | None = None) -> None:
    """As the command does it, in this process."""
    own = load_job(job, [f"state={again}", "store=null"])
    run_eras(own, replay=state / "journal", start=open_snapshot(start) if start else None)


def newest(state: Path) -> Path:
    return Snapshots(state / "snapshots").newest().path


def held(state: Path) -> dict[int, bytes]:
    """The settings' history, as the journal has it."""
    return Journal(state / "journal", read_only=True).settings


def same_run(left: Path, right: Path) -> bool:
    """Whether two state folders stand at the same step with the same bits, by the same way."""
    return compare_snapshots(newest(left), newest(right)) == [] and same_history(newest(left), newest(right))


@pytest.fixture
def grow(kit):
    """Appends the stage's part to the two logs: ``of`` feature events and their actions."""

    def part(stage: int, *, of: int, stages: int = 1) -> None:
        for name, rows in zip(("features", "actions"), kit.events(of * len(STAGES), 5), strict=True):
            sink = open_sink(f"log://{kit.folder / name}")
            length = len(rows) // len(STAGES)
            sink.append(rows[length * stage : length * (stage + stages)])
            sink.close()

    return part


@pytest.mark.timeout(900)
def test_a_run_with_three_changes_of_many_settings_is_repeated_by_its_journal(kit, grow):
    job, state = kit.job("run", train=LIVE, store=None), kit.folder / "run" / "state"
    for stage in range(len(STAGES)):
        grow(stage, of=300)
        run_eras(load_job(job, settings(stage)))
        assert len(held(state)) == stage + 1
    ended = kit.run("replay", job, "--state", kit.folder / "again")
    assert ended.returncode == 0, ended.stderr
    assert "identical to the run's snapshot, bit by bit\n" in ended.stdout
    assert "but for its history" not in ended.stdout
    assert same_run(state, kit.folder / "again")
    first_switch = Snapshots(state / "snapshots").path(list(held(state))[1] - 1)
    replay(job, state, kit.folder / "from", start=first_switch)
    assert same_run(state, kit.folder / "from")
    told = kit.run("inspect", state).stdout
    assert "settings from step 1 on: " in told
    assert "tables[0].optimizer.lr: 0.05 -> 0.2" in told
    assert "features[1].name: None -> 'item'" in told


@pytest.mark.timeout(900)
def test_a_run_that_is_killed_and_started_with_other_settings_again_and_again_is_repeated_by_its_journal(kit, grow):
    """Most starts find steps that wait, journalled under one or two settings that are not the job's any more."""
    job, state, rng = kit.job("killed", train=LIVE), kit.folder / "killed" / "state", random.Random(7)
    grow(0, of=1_200, stages=len(STAGES))
    for stage in range(len(STAGES)):
        for turn in range(2):
            kill(kit, kit.spawn("train", job, *words(stage)), state, rng, at_start=turn == 1)
    ended = kit.run("train", job, *words(len(STAGES) - 1))
    assert ended.returncode == 0, ended.stderr
    assert "the store gets an image" not in kit.output() + ended.stderr, "what was published was made again as it was"
    assert 1 < len(held(state)) <= len(STAGES)
    replay(job, state, kit.folder / "again")
    assert same_run(state, kit.folder / "again")
    told = kit.run("inspect", f"lmdb://{kit.folder}/killed/store", "--against", kit.folder / "again").stdout
    assert told.count(" 0 missing, 0 stale, ") == told.count("table ") == 4, told  # rows may wait for the sweep


def kill(kit, daemon: subprocess.Popen, state: Path, rng: random.Random, *, at_start: bool) -> None:
    """SIGKILL at a random instant: as soon as it has journalled some steps, or while it starts."""
    before = size(state)
    if not at_start:
        kit.wait(lambda: size(state) > before + 4_000 or daemon.poll() is not None, "new steps", timeout_s=240)
    try:
        daemon.wait(timeout=rng.uniform(0.0, 3.0 if at_start else 0.3))
    except subprocess.TimeoutExpired:
        daemon.kill()
    assert daemon.wait() in (0, -9), kit.output()[-3000:]


def size(state: Path) -> int:
    return sum(path.stat().st_size for path in state.glob("journal/*.journal"))


KILL_AT = """
import os, signal, sys
point, job, words = sys.argv[1], sys.argv[2], sys.argv[3:]
from monolith.cli import main
from monolith.streaming.journal import Journal
from monolith.training.snapshot import Snapshots, open_snapshot

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name, before = {
    "before the snapshot of the switch": (Snapshots, "write", True),
    "before the new settings are journalled": (Journal, "settle", True),
    "behind the new settings": (Journal, "settle", False),
    "behind the first step's entry": (Journal, "append", False),
}[point]
real = getattr(owner, name)

def killed(*args, **options):
    if before:
        die()
    real(*args, **options)
    die()

setattr(owner, name, killed)
sys.exit(main(["train", job, *words]))
"""
POINTS = [
    "before the snapshot of the switch",
    "before the new settings are journalled",
    "behind the new settings",
    "behind the first step's entry",
]


@pytest.mark.timeout(900)
def test_a_kill_at_each_point_of_a_switch_ends_in_the_bits_of_a_stop_with_the_old_settings(kit, grow):
    """What people had to do themselves: start with the old settings, stop, change them, and start again."""
    steady = {**LIVE, "publish_every_s": 0.0, "step_linger_s": 30.0, "snapshot_every_s": 1e9}
    job, state = kit.job("run", train=steady, store=None), kit.folder / "run" / "state"
    grow(0, of=400)
    with open_trainer(load_job(job)) as trainer:  # as if killed: no snapshot
        for _ in range(20):
            trainer.advance(trainer.steps.next(10.0))
    assert Snapshots(state / "snapshots").named() == [], "every step waits"
    waiting = kit.folder / "waiting"
    shutil.copytree(state, waiting)

    stop_where_it_was(job)
    by_hand = kit.folder / "by hand"
    state.rename(by_hand)
    for point in POINTS:
        shutil.copytree(waiting, state)
        command = [sys.executable, "-c", KILL_AT, point, str(job), "--quiet", *words(1)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=kit.folder, check=False)
        assert ended.returncode == -9, ended.stderr
        run_eras(load_job(job, settings(1)))
        switched = list(held(state))[1] - 1
        at_switch, stopped = Snapshots(state / "snapshots").path(switched), newest(by_hand)
        assert (at_switch.name, compare_snapshots(at_switch, stopped)) == (stopped.name, []), point
        assert same_history(at_switch, stopped), point
        replay(job, state, kit.folder / f"again {point}")
        assert same_run(state, kit.folder / f"again {point}"), point
        shutil.rmtree(state)


def stop_where_it_was(job: Path) -> None:
    """Run the steps that wait again under their own settings, keep a snapshot, and add no step."""
    with open_trainer(load_job(job)) as trainer:
        while trainer.step < trainer.steps.last_step:
            trainer.advance(trainer.steps.next(10.0))
        trainer.snapshot()
