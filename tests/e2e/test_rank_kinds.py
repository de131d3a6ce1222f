"""A job whose tables are of several kinds, on several processes: the bits of one, published and kept alike."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from rank_jobs import SHARING, STEADY, differences, newest
from rank_processes import pids_of, steps_of

from monolith.commands.inspect_state import folder_lines
from monolith.tables.cafe import CafeTable
from monolith.tables.kinds import open_to_read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TABLES = [
    {"name": "user", "dim": 6, "kind": "qr", "rows": 200, "optimizer": {"kind": "adam"}},
    {"name": "item", "dim": 6, "kind": "hashed", "rows": 60},
    {"name": "both", "dim": 3, "kind": "unified", "rows": 150, "features": ["user", "tags"], "probes": {"tags": 2}},
    {
        "name": "narrow",
        "dim": 5,
        "kind": "optembed",
        "width": 2,
        "features": ["item"],
        "expiry": {"kind": "idle", "ttl_s": 900},
        "threshold": 0.02,
        "probation_s": 60,
    },
    *SHARING,
]


def job(kit, name: str):
    features = [{"name": "tags", "type": "string", "bag": True}]
    model = {"kind": "mlp", "hidden": [16, 8]}
    settings = {"tables": TABLES, "train": STEADY | {"batch_size": 4}, "features": features, "model": model}
    return kit.job(name, sharding={"exact": True, "timeout_s": 60}, **settings)


def train_and_kill(kit, path: Path, ranks: int) -> None:
    """On so many ranks, one of which is killed once two more steps are journalled."""
    state = path.with_suffix("") / "state"
    before = steps_of(state)
    daemon = kit.spawn("train", path, "--workers", ranks)
    kit.wait(lambda: steps_of(state) >= before + 2, "new steps", 120)
    if rank := pids_of(path).get(1):
        os.kill(rank, signal.SIGKILL)
    assert daemon.wait(200) == 0, kit.output()[-4000:]


def test_a_job_with_tables_of_other_kinds_makes_one_process_bits_at_any_number_of_ranks(kit):
    """Each turn goes on from what the one before left; in one of them a rank is killed."""
    streams = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    for turn, ranks in enumerate([2, 3, 1]):
        kit.fill(*streams, count=120, seed=turn)
        alone, path = job(kit, "alone"), job(kit, "ranks")
        ended = kit.run("train", alone)
        assert ended.returncode == 0, ended.stderr[-3000:]
        if ranks == 3:
            train_and_kill(kit, path, ranks)
        else:
            ended = kit.run("train", path, *(("--workers", ranks) if ranks > 1 else ()))
            assert ended.returncode == 0, ended.stderr[-3000:]
        assert differences(kit, "alone", "ranks") == [], ranks
        if ranks == 2:
            lines = "\n".join(folder_lines(newest(kit, "ranks").path))
            assert "table user: 29 rows of dim 6 (qr" in lines
            assert "table hot: " in lines
            assert "    user#remainder:\n    rank 0: buckets 0 to 511; " in lines
            checked = kit.run("inspect", f"lmdb://{kit.folder}/ranks/store", "--against", kit.folder / "ranks/state")
            assert checked.returncode == 0, checked.stdout + checked.stderr
    again = ("--state", kit.folder / "again/state", "--store", f"lmdb://{kit.folder}/again/store")
    replayed = kit.run("replay", kit.folder / "ranks.yaml", *again)
    assert "identical to the run's snapshot" in replayed.stdout, replayed.stdout + replayed.stderr
    tables = newest(kit, "ranks").tables()
    assert open_to_read(tables["narrow"]).stats().pruned > 0
    hot = open_to_read(tables["hot"])
    assert isinstance(hot, CafeTable)
    assert len(hot.own_ids()[0]) > 0
