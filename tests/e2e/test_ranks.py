"""One job on several processes, as a user types it: the same model at every number of them, whatever happens to one.

``MONOLITH_RANK_KILLS=50`` is the long form of the test that kills ranks.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rank_jobs import EVENTS, KILLS, STEADY, TABLES, differences, job, newest
from rank_processes import pids_of, steps_of

from monolith.commands.compare import same_history
from monolith.commands.inspect_state import folder_lines
from monolith.streaming.journal import Journal
from monolith.tables import Table
from monolith.training.snapshot import RANKS
from monolith.training.status import read_status

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, kit_class):
    """The job in one process, and on two ranks."""
    kit = kit_class(tmp_path_factory.mktemp("ranks"))
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=EVENTS)
    for name, arguments, exact in [
        ("alone", (), True),
        ("two", ("--workers", 2), True),
        ("sums", ("--workers", 2), False),
    ]:
        ended = kit.run("train", job(kit, name, exact=exact), *arguments)
        assert ended.returncode == 0, f"{name}: {ended.stderr[-3000:]}"
    return kit


def test_an_exact_job_makes_the_same_bits_in_one_process_and_on_two_ranks(runs):
    assert differences(runs, "alone", "two") == []
    assert RANKS in newest(runs, "two").manifest.files


def test_without_exact_sums_the_ids_and_counts_are_the_same_and_values_are_near(runs):
    alone, sums = newest(runs, "alone"), newest(runs, "sums")
    assert not same_history(alone.path, sums.path)
    assert _steps_of(runs, "alone") == _steps_of(runs, "sums")
    for name in alone.tables():
        one, other = (Table.open(each.tables()[name]) for each in (alone, sums))
        assert np.array_equal(one.rows()[0], other.rows()[0])
        np.testing.assert_allclose(one.rows()[1], other.rows()[1], rtol=1e-3, atol=2e-5)
        assert np.array_equal(one.delta(1).removed, other.delta(1).removed) or one.native.clockwork().floor > 1
        counts = [
            (s.rows, s.counters, s.observed, s.admitted, s.rejected, s.late, s.expired, s.tombstones)
            for s in (one.stats(), other.stats())
        ]
        assert counts[0] == counts[1]


def _steps_of(kit, name: str) -> list[tuple[object, ...]]:
    """What each step read and did; which streams were idle is a matter of time."""
    journal = Journal(kit.folder / name / "state" / "journal", read_only=True)
    return [(entry.step, entry.ends, entry.watermark_ms, entry.publish) for entry in journal.read(1)]


def test_inspect_says_which_rank_has_how_many_rows(runs):
    lines = "\n".join(folder_lines(newest(runs, "two").path))
    assert "written by 2 ranks" in lines
    assert "rank 1: buckets 512 to 1023; " in lines
    assert " times the mean" in lines


def test_a_run_with_killed_ranks_ends_in_the_bits_of_one_that_was_never_killed(runs, tell):
    """Of the same number of ranks: their sums are formed in the order of ranks."""
    path = job(runs, "killed", exact=False)
    state, rng, killed = runs.folder / "killed" / "state", random.Random(5), []
    daemon = runs.spawn("train", path, "--workers", 2, "--max-restarts", 2 * KILLS + 5, "--set", "train.batch_size=8")
    while len(killed) < KILLS and daemon.poll() is None:
        runs.wait(lambda: len(pids_of(path)) == 2 or daemon.poll() is not None, "two ranks", 120)
        if len(killed) % 5:  # else they may die while they start
            steps = steps_of(state)
            runs.wait(lambda s=steps: steps_of(state) > s or daemon.poll() is not None, "a new step", 120)
        try:
            daemon.wait(rng.uniform(0.0, 0.6))
        except subprocess.TimeoutExpired:
            ranks = pids_of(path)
            if rank := ranks.get(rng.randrange(2)):
                os.kill(rank, signal.SIGKILL)
                killed.append(rank)
                runs.wait(lambda r=rank: r not in pids_of(path).values() or daemon.poll() is not None, "the rank's end")
    assert daemon.wait(300) == 0, runs.output()[-4000:]
    calm = runs.run("train", job(runs, "calm", exact=False), "--workers", 2, "--set", "train.batch_size=8")
    assert calm.returncode == 0, calm.stderr
    assert killed
    assert differences(runs, "killed", "calm") == []
    tell(f"killed {len(killed)} ranks: identical")


def test_a_snapshot_goes_on_at_any_number_of_ranks_and_a_replay_in_one_process_makes_its_bits(kit):
    streams = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    path = job(kit, "chain")
    for number, ranks in enumerate([1, 2, 4, 3, 1]):
        kit.fill(*streams, count=100, seed=number)
        arguments = ("--workers", ranks) if ranks > 1 else ()
        ended = kit.run("train", path, *arguments)
        assert ended.returncode == 0, ended.stderr[-3000:]
    replayed = kit.run(
        "replay", path, "--state", kit.folder / "again/state", "--store", f"lmdb://{kit.folder}/again/store"
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "identical to the run's snapshot" in replayed.stdout


def test_a_replay_of_ranks_that_added_gradients_says_why_it_makes_other_bits(runs):
    path = runs.folder / "sums.yaml"
    replayed = runs.run("replay", path, "--state", runs.folder / "sums again")
    assert replayed.returncode == 1
    assert "DIFFERS: " in replayed.stdout
    assert "as is to be expected, for one process does not make the bits of this run: 2 processes" in replayed.stdout


def test_a_table_with_a_limit_evicts_alike_on_one_rank_and_on_two(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=600)
    limited = [{**TABLES[0], "eviction": {"kind": "lfu", "max_rows": 40, "half_life_s": 900}}, *TABLES[1:]]
    for ranks in (1, 2):
        ended = kit.run("train", job(kit, f"limited{ranks}", tables=limited), "--workers", ranks)
        assert ended.returncode == 0, ended.stderr[-3000:]
    assert differences(kit, "limited1", "limited2") == []
    stats = Table.open(newest(kit, "limited1").tables()["user"]).stats()
    assert stats.evicted > 0


def test_sigterm_ends_all_ranks_with_a_snapshot_and_exit_0(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    path, state = job(kit, "follows", input={"follow": True}), kit.folder / "follows" / "state"
    daemon = kit.spawn("train", path, "--workers", 2)
    kit.wait(lambda: steps_of(state) > 5 or daemon.poll() is not None, "steps", 120)
    daemon.terminate()
    assert daemon.wait(60) == 0, kit.output()[-3000:]
    assert newest(kit, "follows").manifest.step == steps_of(state)
    early = kit.spawn("train", path, "--workers", 2)
    kit.wait(lambda: pids_of(path) or early.poll() is not None, "a rank", 120)
    early.terminate()
    assert early.wait(60) == 0, kit.output()[-3000:]
    assert "Traceback" not in kit.output()


def test_ranks_end_with_a_snapshot_when_the_process_that_started_them_is_killed(kit, tmp_path_factory, monkeypatch):
    words = tmp_path_factory.mktemp("words")
    monkeypatch.setenv("TMPDIR", str(words))
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    path, state = job(kit, "orphans", input={"follow": True}), kit.folder / "orphans" / "state"
    daemon = kit.spawn("train", path, "--workers", 2, "--set", "train.snapshot_every_s=1e9")
    kit.wait(lambda: steps_of(state) > 5 or daemon.poll() is not None, "steps", 120)
    daemon.kill()
    daemon.wait()
    kit.wait(lambda: not pids_of(path), "the ranks' end", 60)
    kit.wait(lambda: not [*words.glob("monolith-*")], "torchrun's end, which leaves nothing", 60)
    assert newest(kit, "orphans").manifest.step == steps_of(state)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are told by Linux")
def test_ranks_end_with_a_snapshot_when_torchrun_is_killed_whoever_adopts_them(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    path, state = job(kit, "adopted", input={"follow": True}, store=None), kit.folder / "adopted" / "state"
    adopt = ctypes.CDLL(None).prctl
    adopt(36, 1)  # PR_SET_CHILD_SUBREAPER, as systemd and container runtimes do: orphans are not process 1's
    try:
        daemon = kit.spawn("train", path, "--workers", 2, "--set", "train.snapshot_every_s=1e9")
        kit.wait(lambda: steps_of(state) > 5 or daemon.poll() is not None, "steps", 120)
        status = Path(f"/proc/{pids_of(path)[0]}/status").read_text()
        os.kill(int(re.findall(r"^PPid:\s+(\d+)", status, re.MULTILINE)[0]), signal.SIGKILL)
        assert daemon.wait(60) == 1
        kit.wait(lambda: not pids_of(path), "the ranks' end", 60)
    finally:
        adopt(36, 0)
    assert newest(kit, "adopted").manifest.step == steps_of(state)


def test_a_table_that_cannot_be_divided_is_refused_by_name_and_nothing_is_started_again(kit):
    tables = [{"name": "user", "dim": 9, "eviction": {"kind": "lru", "max_rows": 40}}, *TABLES[1:]]
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=10)
    path = job(kit, "limited", tables=tables)
    refused = kit.run("train", path, "--workers", 2, "--set", "sharding.limit_parts=1")
    assert refused.returncode == 1
    assert refused.stderr.count("monolith train: ConfigError: table 'user' has a limit, so it has 1 parts") == 1, (
        refused.stderr
    )
    assert "Traceback" not in refused.stderr


def test_ranks_with_other_job_files_are_refused_on_all_ranks(kit):
    paths = [job(kit, "same"), kit.folder / "other.yaml"]
    paths[1].write_text(paths[0].read_text().replace("seed: 3", "seed: 4"))
    ranks = _by_hand(kit, paths)
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    for text in said:
        assert "rank 1 differs from rank 0: job: seed is 4, not 3" in text


def test_a_rank_that_hangs_is_named_by_the_others_and_it_alone(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=100)
    path = job(kit, "hangs", input={"follow": True}, store=None)  # so that no export makes rank 0 the slow one
    path.write_text(path.read_text().replace("timeout_s: 60", "timeout_s: 12"))
    for said in _said_after(kit, path, signal.SIGSTOP):
        assert "UnavailableError: rank 1 did not answer for 12 s" in said, said


def test_a_rank_that_is_killed_is_named_by_the_others_and_it_alone_also_while_they_keep_their_rows(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=100)
    path = job(kit, "killed", input={"follow": True}, store=None)
    path.write_text(path.read_text().replace("timeout_s: 60", "timeout_s: 60\n  partial_recovery: true"))
    for rank, said in zip((0, 2), _said_after(kit, path, signal.SIGKILL), strict=True):
        assert f"UnavailableError: rank 1 ended; rank {rank} ends as well" in said, said
        assert f"rank {rank} left its rows" in said


def _said_after(kit, path: Path, number: signal.Signals) -> list[str]:
    """What ranks 0 and 2 say when rank 1 of three gets a signal in the midst of the run."""
    ranks = _by_hand(kit, [path] * 3)
    try:
        kit.wait(lambda: steps_of(kit.folder / path.stem / "state") > 2, "steps", 120)
        ranks[1].send_signal(number)
        others = [ranks[0], ranks[2]]
        said = [rank.communicate(timeout=120)[0] for rank in others]
        assert [rank.returncode for rank in others] == [1, 1], said
        assert not any("Traceback" in text for text in said), said
        return said
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def _by_hand(kit, paths: list[Path]) -> list[subprocess.Popen[str]]:
    """Ranks as torchrun starts them, on job files of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "WORLD_SIZE": str(len(paths)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "monolith", "train", str(path)],
            cwd=kit.folder,
            env={**os.environ, **group, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, path in enumerate(paths)
    ]


def test_rank_0_adds_no_closing_step_when_it_is_asked_to_end_since_another_rank_is_gone(kit):
    """As torchrun asks it to, where a person called torchrun."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=100)
    quiet = {"train": {**STEADY, "publish_every_s": 1e9, "step_linger_s": 0.05}}
    path, state = job(kit, "asked", input={"follow": True}, **quiet), kit.folder / "asked" / "state"
    leader, other = _by_hand(kit, [path, path])
    try:
        records = sum(map(len, kit.events(100, seed=5)))
        kit.wait(lambda: _trained(state) == records or leader.poll() is not None, "all records to be done with", 120)
        other.kill()
        other.wait()
        leader.terminate()
        said = leader.communicate(timeout=120)[0]
        assert leader.returncode == 1, said
        assert not any(step.publish for step in Journal(state / "journal", read_only=True).read(1))
    finally:
        other.kill()
        other.communicate()
        leader.kill()


def _trained(state: Path) -> int:
    """How many records were read and are done with."""
    status = read_status(state / "status.json")
    return status.streams.records if status else 0
