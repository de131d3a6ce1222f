"""The job that a chaos run trains, and the servers that it may be given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from servers import KafkaBroker, RedisServer

MODEL = "chaos"


class Servers:
    """A broker and a Redis of the run's own, which it may kill."""

    def __init__(self, folder: Path, kafka_home: Path) -> None:
        for name in ("kafka", "redis"):
            (folder / name).mkdir(parents=True)
        self.kafka = KafkaBroker(kafka_home / "libs", folder / "kafka")
        self.redis = RedisServer(shutil.which("redis-server") or "redis-server", folder / "redis")
        self.kafka.format()
        self.start()

    def start(self) -> None:
        """Start what does not run."""
        for server in (self.kafka, self.redis):
            server.kill()
            server.start()

    def close(self) -> None:
        """Kill both."""
        self.kafka.kill()
        self.redis.kill()


def job(root: Path, servers: Servers | None) -> dict[str, Any]:
    """Every kind of table rule, many small steps, and a watermark that waits, so that all labels are known before."""
    streams = {name: f"log://{root / name}" for name in ("features", "actions")}
    if servers is not None:
        streams = {name: servers.kafka.create(f"chaos-{name}") for name in streams}
    rows = {"dim": 9}
    return {
        "name": MODEL,
        "seed": 3,
        "state": str(root / "state"),
        "store": servers.redis.url if servers else f"lmdb://{root / 'store'}",
        "input": {**streams, "dead_letters": f"log://{root / 'dead'}", "idle_s": 3600},
        "join": {"window_s": 300, "positive_actions": ["like"]},
        "features": [{"name": "tags", "type": "string", "bag": True}],
        "tables": [
            {
                **rows,
                "name": "user",
                "optimizer": {"kind": "adagrad"},
                "expiry": {"kind": "idle", "ttl_s": 1800, "max_age_s": 5400},
                "eviction": {"kind": "lfu", "max_rows": 40, "half_life_s": 900},
            },
            {
                **rows,
                "name": "item",
                "optimizer": {"kind": "adam"},
                "admission": {"kind": "min_count", "count": 2},
                "expiry": {"kind": "idle", "ttl_s": 3600},
                "absent": {"kind": "hashed_tail", "rows": 8, "start_from_tail": True},
            },
            {**rows, "name": "tags", "optimizer": {"kind": "rowwise_adagrad"}, "pooling": "mean"},
        ],
        "model": {"kind": "deepfm", "hidden": [16, 8]},
        "train": {
            "batch_size": 8,
            "step_records": 32,
            "snapshot_every_s": 0.4,
            "publish_every_s": 0.05,
            "keep_journal": True,
        },
    }
