"""SIGKILL at random instants, restart, and nothing is lost, nothing counted twice: the same bits as an unkilled run."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from monolith.commands.compare import compare_snapshots
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.training.snapshot import STRINGS, Snapshots

pytestmark = pytest.mark.e2e

KILLS = 20
SLOW = {"batch_size": 4, "step_records": 16, "snapshot_every_s": 0.2}  # many small steps: more places to die in

KEPT = {
    "features": [{"name": "tags", "type": "string", "bag": True, "keep_strings": True}],
    "tables": [
        {"name": "user", "dim": 9},
        {"name": "item", "dim": 9},
        {
            "name": "tags",
            "dim": 9,
            "eviction": {"kind": "lru", "max_rows": 4},
            "admission": {"kind": "min_count", "count": 2},
        },
    ],
}


@pytest.mark.timeout(900)
def test_twenty_sigkills_end_in_the_bits_of_a_run_that_was_never_killed(kit, tell):
    """Every step publishes and steps go by size, so both runs cut the same steps and all of it can be compared."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=24_000)
    steady = {"train": {**SLOW, "publish_every_s": 0.0, "step_linger_s": 30.0}}
    calm = kit.job("calm", **steady)
    assert kit.run("train", calm).returncode == 0
    killed_at = _train_with_kills(kit, kit.job("killed", **steady), kit.folder / "killed" / "state")
    calm_newest, killed_newest = (
        Snapshots(kit.folder / n / "state" / "snapshots").newest() for n in ("calm", "killed")
    )
    differences = [d for d in compare_snapshots(calm_newest.path, killed_newest.path) if not d.startswith("lineage")]
    assert differences == []
    assert _store_differences(kit.folder, "calm", "killed") == []
    tell(f"killed {len(killed_at)} times, at steps {killed_at} of {killed_newest.manifest.step}: identical")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("strings", [{}, KEPT], ids=["", "strings"])
def test_a_killed_live_run_is_repeated_by_its_journal_to_the_same_bits(kit, strings):
    """Here timing decides steps and publishing, so only the journal can say what an unkilled run would have done."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=6_000)
    job = kit.job("live", train=SLOW, **strings)
    _train_with_kills(kit, job, kit.folder / "live" / "state", kills=4)
    kept = Snapshots(kit.folder / "live/state/snapshots").newest().manifest.files
    assert (STRINGS in kept) == bool(strings)
    replayed = kit.run(
        "replay", job, "--state", kit.folder / "again/state", "--store", f"lmdb://{kit.folder}/again/store"
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "identical to the run's snapshot" in replayed.stdout
    assert _store_differences(kit.folder, "live", "again") == []


def _train_with_kills(kit, job: Path, state: Path, kills: int = KILLS) -> list[int]:
    """Start the daemon again and again, kill it at random instants, then let it end; newest snapshots at the kills."""
    rng, steps_at_kill = random.Random(11), []
    while len(steps_at_kill) < kills:
        daemon = kit.spawn("train", job)
        before = _journal_size(state)
        if len(steps_at_kill) % 5:  # every fifth time it may die while it starts
            kit.wait(lambda d=daemon, b=before: _journal_size(state) > b or d.poll() is not None, "a new step")
        try:
            daemon.wait(timeout=rng.uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            kept = Snapshots(state / "snapshots").steps() if (state / "snapshots").exists() else []
            steps_at_kill.append(kept[-1] if kept else 0)
            continue
        assert daemon.returncode == 0, kit.output()[-3000:]
        pytest.fail(f"the run ended after {len(steps_at_kill)} kills: give it more events")
    assert kit.run("train", job).returncode == 0
    return steps_at_kill


def _journal_size(state: Path) -> int:
    return sum(p.stat().st_size for p in (state / "journal").glob("*")) if (state / "journal").exists() else 0


def _store_differences(folder: Path, left: str, right: str) -> list[str]:
    a, b = (open_store(f"lmdb://{folder / n / 'store'}", "e2e") for n in (left, right))
    try:
        return compare_images(a, b)
    finally:
        a.close()
        b.close()
