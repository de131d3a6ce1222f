"""A disk that fills up, forgets, or is damaged under a job: said by name, and gone on from to the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monolith.commands.compare import compare_snapshots
from monolith.training.snapshot import MANIFEST, Snapshots

pytestmark = pytest.mark.e2e

# Each step publishes and steps go by size, so that any two runs make the same ones.
STEADY = {"publish_every_s": 0.0, "step_linger_s": 30.0, "snapshot_every_s": 0.2, "keep_snapshots": 3}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "monolith-test", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes Linux and root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def streams(kit) -> tuple[str, str]:
    return f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}"


def newest(state: Path) -> Path:
    return Snapshots(state / "snapshots").newest().path


def same_bits(left: Path, right: Path) -> bool:
    differences = compare_snapshots(newest(left), newest(right))
    return [text for text in differences if not text.startswith("lineage")] == []


@pytest.mark.timeout(300)
def test_full_disk_at_a_restart_is_told_with_the_path_and_room_is_all_it_takes(kit, small_disk):
    kit.fill(*streams(kit), count=600)
    job = kit.job("full", state=str(small_disk / "state"), train={"batch_size": 16})
    assert kit.run("train", job).returncode == 0
    filler = fill(small_disk)
    kit.fill(*streams(kit), count=300, seed=6)
    for more, path in ([], "state/"), (["--set", "train.batch_size=8"], "state/snapshots/"):
        ended = kit.run("train", job, "--quiet", *more)
        assert ended.returncode == 1
        assert f"{small_disk}/{path}" in ended.stderr, ended.stderr
        assert "No space left on device" in ended.stderr
        assert "the disk is full: make room there, then start the same command again" in ended.stderr
        assert "Traceback" not in ended.stderr
    filler.unlink()
    assert kit.run("train", job).returncode == 0
    assert kit.run("inspect", f"lmdb://{kit.folder}/full/store", "--against", small_disk / "state").returncode == 0


FAILING_SYNC = """
import os, sys
real, left = os.fsync, [int(sys.argv[1])]

def fsync(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".journal"):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, os.strerror(5))
    return real(descriptor)

os.fsync = fsync
from monolith.cli import main
main(sys.argv[2:])
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="looks up open files in /proc")
def test_sync_of_the_journal_that_fails_once_ends_the_process_and_the_restart_makes_the_same_bits(kit):
    kit.fill(*streams(kit), count=1500)
    calm, job = kit.job("calm", train=STEADY), kit.job("failing", train=STEADY)
    assert kit.run("train", calm).returncode == 0
    words = [sys.executable, "-c", FAILING_SYNC, "30", "train", str(job), "--quiet"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=kit.folder, check=False)
    assert ended.returncode == 1
    assert "DurabilityError: the step journal" in ended.stderr
    assert "Input/output error" in ended.stderr
    assert kit.run("train", job).returncode == 0
    assert same_bits(kit.folder / "calm/state", kit.folder / "failing/state")
    compared = kit.run("inspect", f"lmdb://{kit.folder}/failing/store", "--against", kit.folder / "failing/state")
    assert compared.returncode == 0, compared.stdout


@pytest.mark.timeout(300)
def test_damaged_newest_snapshots_cost_nothing_but_the_steps_since_the_one_before(kit):
    kit.fill(*streams(kit), count=3000)
    job = kit.job("fallen", train={**STEADY, "batch_size": 4, "step_records": 16})
    state = kit.folder / "fallen/state"
    assert kit.run("train", job).returncode == 0
    steps = Snapshots(state / "snapshots").steps()
    assert len(steps) == 3
    whole = newest(state)
    kept = shutil.copytree(whole, kit.folder / "kept" / whole.name)
    (Snapshots(state / "snapshots").path(steps[1]) / MANIFEST).unlink()
    shutil.rmtree(whole)
    whole.write_text("a file of its name")
    (state / "snapshots" / ".000000000007.tmp").mkdir()
    (state / "snapshots" / ".000000000007.tmp" / "half").write_bytes(bytes(100_000))
    told = kit.run("inspect", state)
    assert told.returncode == 1
    assert "2 things" in told.stderr
    assert f"{whole} cannot be used" in told.stdout
    assert ".000000000007.tmp: 10" in told.stdout
    assert "in all" in told.stdout
    again = kit.run("train", job)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("snapshot unusable, trying the one before") == 2
    assert f"restored step={steps[0]}" in again.stderr
    assert compare_snapshots(whole, kept) == []
    assert Snapshots(state / "snapshots").steps() == Snapshots(state / "snapshots").named()
    assert Snapshots(state / "snapshots").leftovers() == []
