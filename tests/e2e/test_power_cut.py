"""Power cuts at any moment of a run: what is left can be read, holds what was promised, and is gone on from exactly.

A producer and then a trainer run once, and `power.c` writes down everything that they do to their files. Then moments
of that are cut: the folder is rebuilt as a disk may leave it, hundreds of times in the time of one run.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chaos_events
import pytest
import yaml
from chaos_world import job
from power_cut import Disk, build, write_tree

from monolith.commands.compare import compare_snapshots
from monolith.errors import ConfigError, UnavailableError
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.streaming.journal import Journal
from monolith.streaming.log import log_exists
from monolith.training.snapshot import Snapshots
from monolith.training.status import read_status

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: no cc on the path"),
]

SEED = int(os.environ.get("MONOLITH_CHAOS_SEED", "5"))
MOMENTS = int(os.environ.get("MONOLITH_CHAOS_MOMENTS", "120"))
EVENTS = 1_200
RESUMED = 2  # of the moments are trained on from
OFTEN = {"publish_every_s": 0.0, "snapshot_every_s": 0.05}  # many moments in little time


class Recording:
    """A run that nobody disturbed, and everything that it wrote."""

    def __init__(self, folder: Path) -> None:
        self.root, self.calm = folder / "disk", folder / "calm"
        self.root.mkdir()
        (self.root / "said").touch()  # the producer's output: the number of each event once it is durable
        self.disk = Disk(self.root, folder / "trace")
        settings = job(self.root, None)
        settings["train"] |= OFTEN
        settings["input"]["follow"] = False
        self.job = folder / "job.yaml"
        self.job.write_text(yaml.safe_dump(settings))
        self.streams = [settings["input"][name] for name in ("features", "actions")]
        shim = self.disk.environment(build(folder))
        with (self.root / "said").open("ab") as said:
            self.run("chaos_events", *self.streams, SEED, EVENTS, 1e9, output=said, **shim)
        self.run("monolith", "train", self.job, "--quiet", **shim)
        self.root.rename(self.calm)

    def run(self, *words: object, output=subprocess.PIPE, **variables: str) -> None:
        """A module of Python as a program, to its end."""
        paths = {"PYTHONPATH": str(Path(chaos_events.__file__).parent), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *map(str, words)]
        environment = {**os.environ, **paths, **variables}
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=environment, check=False, timeout=240)
        assert done.returncode == 0, done.stderr.decode()

    def cuts(self, count: int, rng: random.Random) -> Iterator[int]:
        """Cut the power at ``count`` moments: the folder is what is left. Yields how many events were durable."""
        total = sum(1 for _ in self.disk.records())
        at = 0
        for moment in sorted(rng.sample(range(total), count)):
            at += self.disk.follow(moment - at)
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir()
            write_tree(self.root, self.disk.after_cut(rng if rng.random() < 0.7 else None))
            yield max((int(word) + 1 for word in self.disk.read("said").split() if word.isdigit()), default=0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Recording:
    return Recording(tmp_path_factory.mktemp("power"))


@pytest.mark.timeout(600)
def test_whatever_moment_the_power_is_cut_nothing_is_lost_and_the_journal_gives_the_same_bits(recording, tell):
    rng = random.Random(SEED)
    resumed = set(rng.sample(range(MOMENTS // 4, MOMENTS), RESUMED))
    for number, durable in enumerate(recording.cuts(MOMENTS, rng)):
        _check_readable(recording, durable)
        if number in resumed:
            recording.run("chaos_events", *recording.streams, SEED, EVENTS, 1e9)
            recording.run("monolith", "train", recording.job, "--quiet")
            _check_exact(recording, recording.root.with_name(f"again-{number}"))
    recording.disk.follow()
    assert recording.disk.differences(recording.calm) == [], "the shim did not see everything"
    tell(f"power cut at {MOMENTS} moments of a run, gone on from {RESUMED} of them: exact")


def _check_readable(recording: Recording, durable: int) -> None:
    """Nothing is damaged, nothing that was acknowledged is gone, and nothing is ahead of what it was made from."""
    features, state = recording.root / "features", recording.root / "state"
    there = _events_in(recording.streams[0]) if log_exists(features) else 0
    assert there >= durable
    newest = Snapshots(state / "snapshots").newest()
    journalled = Journal(state / "journal", read_only=True).last_step if any(state.glob("journal/*.journal")) else 0
    assert journalled >= (newest.manifest.step if newest else 0)
    assert journalled >= _published_step(recording.root / "store")


def _events_in(url: str) -> int:
    try:
        return chaos_events.next_number(url)
    except ConfigError:  # the files are there, the first transaction is not: whoever appends makes the log
        return 0


def _published_step(folder: Path) -> int:
    store = open_store(f"lmdb://{folder}", create=False)
    try:
        return store.image().model.version.step
    except UnavailableError:  # nothing was published yet
        return 0
    finally:
        store.close()


def _check_exact(recording: Recording, again: Path) -> None:
    """Everything was trained once, and the journal alone gives the same bits, in the snapshot and in the store."""
    status = read_status(recording.root / "state/status.json")
    assert status.samples == chaos_events.expected(SEED, EVENTS).total()
    recording.run("monolith", "replay", recording.job, "--state", again / "state", "--store", f"lmdb://{again}/store")
    newest = [Snapshots(root / "state/snapshots").newest().path for root in (recording.root, again)]
    stores = [open_store(f"lmdb://{root}/store", create=False) for root in (recording.root, again)]
    try:
        assert compare_snapshots(*newest) + compare_images(*stores) == []
    finally:
        for store in stores:
            store.close()
