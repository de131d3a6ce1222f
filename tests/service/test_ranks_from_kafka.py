"""A job on two processes that reads Kafka, one of them killed on the way: the bits of one process."""

from __future__ import annotations

import os
import signal

import pytest
from rank_processes import pids_of, steps_of

from monolith.serving.parity import compare_images
from monolith.serving.store import open_store

pytestmark = [pytest.mark.service, pytest.mark.e2e, pytest.mark.timeout(600)]

EVENTS = 1200
TABLES = [
    {"name": "user", "dim": 9, "expiry": {"kind": "idle", "ttl_s": 300}},
    {"name": "item", "dim": 9, "optimizer": {"kind": "adam"}, "admission": {"kind": "min_count", "count": 2}},
    {"name": "tags", "dim": 9, "pooling": "mean"},
]


@pytest.mark.parametrize("apart", [False, True], ids=["rank 0 reads", "each rank reads a partition"])
def test_two_ranks_of_which_one_is_killed_train_from_kafka_what_one_process_makes_of_their_journal(
    kit, kafka, topic, apart
):
    urls = [kafka.create(f"{topic}-{name}", partitions=2) for name in ("features", "actions")]
    kit.fill(*urls, count=EVENTS)
    streams = {"features": urls[0], "actions": urls[1], "dead_letters": None, "max_out_of_order_s": 5}
    streams["co_partitioned"] = apart
    train = {"batch_size": 8, "keep_journal": True}
    path = kit.job("ranks", input=streams, tables=TABLES, train=train, sharding={"exact": True, "timeout_s": 60})
    state = kit.folder / "ranks" / "state"

    daemon = kit.spawn("train", path, "--workers", 2)
    kit.wait(lambda: steps_of(state) > 4 or daemon.poll() is not None, "steps", 120)
    os.kill(pids_of(path)[0], signal.SIGKILL)
    assert daemon.wait(240) == 0, kit.output()[-4000:]
    assert "local_rank: 0" in kit.output(), "the rank was not killed while it ran"

    again = kit.folder / "again"
    replayed = kit.run("replay", path, "--state", again / "state", "--store", f"lmdb://{again / 'store'}")
    assert "identical to the run's snapshot, bit by bit" in replayed.stdout, replayed.stdout + replayed.stderr[-3000:]
    stores = [open_store(f"lmdb://{folder / 'store'}", "e2e") for folder in (kit.folder / "ranks", again)]
    assert stores[0].version().sequence > 1
    assert compare_images(*stores) == []
    for store in stores:
        store.close()
