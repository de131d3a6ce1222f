"""One job on several processes, as the tests of it run it.

``MONOLITH_RANK_KILLS=50`` is the long form of the tests that kill ranks.
"""

from __future__ import annotations

import os

from monolith.commands.compare import compare_snapshots
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.training.snapshot import Snapshot, Snapshots

KILLS = int(os.environ.get("MONOLITH_RANK_KILLS", "3"))
EVENTS = 900 if KILLS < 10 else 400 * KILLS  # enough for each kill to come at a step of its own
TABLES = [
    {"name": "user", "dim": 9, "expiry": {"kind": "idle", "ttl_s": 600, "max_age_s": 1500}},
    {
        "name": "item",
        "dim": 9,
        "optimizer": {"kind": "adam", "clip_global_norm": 0.01},
        "admission": {"kind": "min_count", "count": 2, "half_life_s": 900},
        "expiry": {"kind": "idle", "ttl_s": 900},
    },
    {"name": "tags", "dim": 9, "optimizer": {"kind": "rowwise_adagrad"}, "pooling": "mean"},
]
SHARING = [  # tables in which ids share rows
    {
        "name": "rare",
        "dim": 4,
        "features": ["tags"],
        "admission": {"kind": "min_count", "count": 4},
        "absent": {"kind": "hashed_tail", "rows": 9},
    },
    {"name": "hot", "dim": 3, "kind": "cafe", "rows": 40, "own_rows": 12, "features": ["item", "user"]},
]
STEADY = {"publish_every_s": 0.0, "step_linger_s": 30.0, "sweep_rows": 16, "keep_journal": True}  # steps go by size


def job(kit, name: str, *, exact: bool = True, **settings):
    """A job whose journal depends on its streams alone."""
    settings = {"tables": TABLES, "train": STEADY, **settings}
    settings["features"] = [{"name": "tags", "type": "string", "bag": True, "keep_strings": True}]
    return kit.job(name, sharding={"exact": exact, "timeout_s": 60}, **settings)


def newest(kit, name: str) -> Snapshot:
    found = Snapshots(kit.folder / name / "state" / "snapshots").newest()
    assert found is not None
    return found


def differences(kit, left: str, right: str) -> list[str]:
    """Between two runs' newest snapshots and what they published."""
    a, b = newest(kit, left), newest(kit, right)
    found = [each for each in compare_snapshots(a.path, b.path) if not each.startswith("lineage")]
    stores = [open_store(f"lmdb://{kit.folder / name / 'store'}", "e2e") for name in (left, right)]
    found += compare_images(*stores)
    for store in stores:
        store.close()
    return found
