"""Ranks that read and join partitions of their own make what one process makes, whatever happens to one of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from rank_jobs import KILLS, differences, job, newest
from rank_processes import pids_of, steps_of

from monolith.commands.parity import against_snapshot
from monolith.streaming.reader_state import whole_state
from monolith.training.status import read_status

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PARTITIONS = 4
LONG = KILLS > 10
EVENTS = 400 * KILLS if LONG else 700


def fill(kit, count: int = EVENTS, seed: int = 5, actions: int = PARTITIONS) -> None:
    kit.fill(
        f"log://{kit.folder / 'features'}?partitions={PARTITIONS}",
        f"log://{kit.folder / 'actions'}?partitions={actions}",
        count=count,
        seed=seed,
    )


def partitioned(kit, name: str, **settings):
    return job(kit, name, input={"co_partitioned": True, **settings.pop("input", {})}, **settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, kit_class):
    """The job in one process, and on three ranks."""
    kit = kit_class(tmp_path_factory.mktemp("parts"))
    fill(kit)
    for name, ranks, exact in [("alone", 0, True), ("three", 3, True), ("sums", 3, False)]:
        arguments = ("--workers", ranks) if ranks else ()
        ended = kit.run("train", partitioned(kit, name, exact=exact), *arguments)
        assert ended.returncode == 0, f"{name}: {ended.stderr[-3000:]}"
    return kit


def test_ranks_that_read_their_own_partitions_make_the_bits_of_one_process(runs):
    assert differences(runs, "alone", "three") == []
    alone, ranks = newest(runs, "alone"), newest(runs, "three")
    assert whole_state(alone.read) == whole_state(ranks.read)


def test_without_exact_sums_the_streams_are_cut_and_joined_alike(runs):
    alone, sums = newest(runs, "alone"), newest(runs, "sums")
    assert whole_state(alone.read) == whole_state(sums.read)


def test_a_run_with_killed_ranks_ends_in_the_bits_of_one_that_was_never_killed(runs):
    path = partitioned(runs, "killed", exact=False)
    state, rng, killed = runs.folder / "killed" / "state", random.Random(7), []
    daemon = runs.spawn("train", path, "--workers", 3, "--max-restarts", 2 * KILLS + 5)
    while len(killed) < (KILLS if LONG else 2) and daemon.poll() is None:
        runs.wait(lambda: len(pids_of(path)) == 3 or daemon.poll() is not None, "three ranks", 120)
        steps = steps_of(state)
        runs.wait(lambda s=steps: steps_of(state) > s or daemon.poll() is not None, "a new step", 120)
        try:
            daemon.wait(rng.uniform(0.0, 0.6))
        except subprocess.TimeoutExpired:
            if rank := pids_of(path).get(rng.randrange(3)):
                os.kill(rank, signal.SIGKILL)
                killed.append(rank)
                runs.wait(lambda r=rank: r not in pids_of(path).values() or daemon.poll() is not None, "its end")
    assert daemon.wait(300) == 0, runs.output()[-4000:]
    assert killed
    assert differences(runs, "killed", "sums") == []


def test_ranks_that_keep_their_rows_go_on_in_their_partitions(kit):
    fill(kit, count=300)
    path, state = partitioned(kit, "kept", exact=False, input={"follow": True}), kit.folder / "kept" / "state"
    arguments = ("train", path, "--workers", 2, "--set", "sharding.partial_recovery=true")
    daemon = kit.spawn(*arguments, "--set", "train.snapshot_every_s=1e9")
    kit.wait(lambda: steps_of(state) > 3 or daemon.poll() is not None, "steps", 120)
    daemon.terminate()
    assert daemon.wait(60) == 0, kit.output()[-3000:]
    daemon, before = kit.spawn(*arguments, "--set", "train.snapshot_every_s=1e9"), steps_of(state)
    fill(kit, count=600, seed=6)
    kit.wait(lambda: steps_of(state) > before + 5 or daemon.poll() is not None, "new steps", 120)
    os.kill(pids_of(path)[1], signal.SIGKILL)
    kit.wait(lambda: "partial recovery: after" in kit.output() or daemon.poll() is not None, "the recovery", 120)
    fill(kit, count=100, seed=7)
    after = steps_of(state)
    kit.wait(lambda: steps_of(state) > after + 1 or daemon.poll() is not None, "later steps", 120)
    daemon.terminate()
    assert daemon.wait(60) == 0, kit.output()[-3000:]
    assert "updates lost by rank 0's partitions=" in kit.output()
    assert against_snapshot(f"lmdb://{kit.folder / 'kept' / 'store'}", "e2e", state).exact


def test_any_number_of_ranks_goes_on_from_a_snapshot_with_what_waits_in_the_joiner(kit):
    path, state = partitioned(kit, "chain", input={"follow": True}), kit.folder / "chain" / "state"
    for number, ranks in enumerate([1, 2, 4, 3, 0] if LONG else [2, 3, 0]):
        fill(kit, count=300, seed=number)
        trained = samples_of(state)
        daemon = kit.spawn("train", path, *(("--workers", ranks) if ranks else ()))
        kit.wait(lambda t=trained, d=daemon: samples_of(state) > t + 32 or d.poll() is not None, "samples", 120)
        daemon.terminate()
        assert daemon.wait(60) == 0, kit.output()[-3000:]
    waits = newest(kit, "chain").manifest.files
    assert any(name.startswith("joiner/") for name in waits), sorted(waits)
    replayed = kit.run(
        "replay", path, "--state", kit.folder / "again/state", "--store", f"lmdb://{kit.folder}/again/store"
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "identical to the run's snapshot" in replayed.stdout


def samples_of(state: Path) -> int:
    status = read_status(state / "status.json")
    return status.samples if status is not None else 0


def test_what_ends_all_ranks_is_told_once_and_nothing_is_started_again(kit):
    fill(kit, count=200)
    ended = kit.run("train", partitioned(kit, "diverges", dense_optimizer={"lr": 1e30}, exact=False), "--workers", 2)
    assert ended.returncode == 1
    assert ended.stderr.count("monolith train: NonFiniteError: ") == 1, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr


def test_streams_that_are_not_co_partitioned_are_refused_and_nothing_is_started_again(kit):
    fill(kit, count=10, actions=2)
    refused = kit.run("train", partitioned(kit, "uneven"), "--workers", 2)
    assert refused.returncode == 1
    assert refused.stderr.count("monolith train: ConfigError: input.co_partitioned: the streams have other") == 1
    assert "[0, 1, 2, 3]" in refused.stderr
    assert "Traceback" not in refused.stderr
