"""A job on two processes fills LMDB and Redis as one process does, also where one is killed before the commit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from monolith.serving.parity import compare_images
from monolith.serving.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TABLES = [
    {"name": "user", "dim": 9, "expiry": {"kind": "idle", "ttl_s": 300}},
    {"name": "item", "dim": 9, "optimizer": {"kind": "adam"}, "admission": {"kind": "min_count", "count": 2}},
    {"name": "tags", "dim": 9, "pooling": "mean"},
]
STEADY = {"publish_every_s": 0.0, "step_linger_s": 30.0, "snapshot_every_s": 1e9}
DIES_AT = {"lmdb": 5, "redis": 1}  # a delta, and the image


def job(kit, name: str, **settings):
    """A job whose steps depend on its streams alone, and every step publishes."""
    return kit.job(name, tables=TABLES, train=STEADY, sharding={"exact": True, "timeout_s": 60}, **settings)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, kit_class):
    """The streams, and the store of one process that trained on them."""
    kit = kit_class(tmp_path_factory.mktemp("ranks"))
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=500)
    ended = kit.run("train", job(kit, "alone"))
    assert ended.returncode == 0, ended.stderr
    return kit


@pytest.mark.parametrize("kind", ["lmdb", pytest.param("redis", marks=pytest.mark.service)])
def test_a_rank_killed_between_stage_and_commit_leaves_the_sequence_before_and_a_new_start_one_process_bits(
    request, alone, kind
):
    url = f"lmdb://{alone.folder / kind / 'store'}" if kind == "lmdb" else request.getfixturevalue("redis_server").url
    path, dies_at = job(alone, kind, store=url), DIES_AT[kind]
    codes, said = started_by_hand(path, dies_at)
    assert codes == [1, -signal.SIGKILL], said
    assert "rank 1 ended" in said, said
    store = open_store(url, "e2e")
    assert store.version().sequence == dies_at - 1
    if dies_at > 1:
        assert store.look().fault is None
        assert store.image().delta.sequence == dies_at - 1
    ended = alone.run("train", path, "--workers", 2)
    assert ended.returncode == 0, ended.stderr
    one = open_store(f"lmdb://{alone.folder / 'alone' / 'store'}", "e2e")
    assert store.version().sequence == one.version().sequence > 5
    assert compare_images(one, store) == []
    for each in (one, store):
        each.close()


def started_by_hand(path: Path, dies_at: int) -> tuple[list[int], str]:
    """Two ranks, of which rank 1 dies; exit codes, and what rank 0 said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    commands = [["-m", "monolith"], [str(Path(__file__).with_name("rank_dies.py")), str(dies_at)]]
    ranks = []
    for rank, command in enumerate(commands):
        own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "test"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **own}
        line = [sys.executable, *command, "train", str(path)]
        ranks.append(
            subprocess.Popen(line, cwd=path.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    said = [rank.communicate(timeout=240)[0].decode() for rank in ranks]
    return [rank.returncode for rank in ranks], said[0]
