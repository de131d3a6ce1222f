"""A job whose tables are of several kinds, on several processes: the bits of one, published and kept alike."""

from __future__ import annotations

import pytest

from monolith.commands.compare import compare_snapshots
from monolith.commands.inspect_state import folder_lines
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.training.snapshot import Snapshot, Snapshots

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
    },
]
STEADY = {"publish_every_s": 0.0, "step_linger_s": 30.0, "sweep_rows": 16, "keep_journal": True}  # steps go by size


def job(kit, name: str):
    features = [{"name": "tags", "type": "string", "bag": True}]
    model = {"kind": "mlp", "hidden": [16, 8]}
    settings = {"tables": TABLES, "train": STEADY, "features": features, "model": model}
    return kit.job(name, sharding={"exact": True, "timeout_s": 60}, **settings)


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


def test_a_job_with_tables_of_other_kinds_makes_one_process_bits_at_any_number_of_ranks(kit):
    streams = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    for turn, ranks in enumerate([2, 3, 1]):  # each goes on from what the one before left
        kit.fill(*streams, count=120, seed=turn)
        for name, workers in (("alone", ()), ("ranks", ("--workers", ranks) if ranks > 1 else ())):
            ended = kit.run("train", job(kit, name), *workers)
            assert ended.returncode == 0, f"{name}: {ended.stderr[-3000:]}"
        assert differences(kit, "alone", "ranks") == [], ranks
        if ranks == 2:
            lines = "\n".join(folder_lines(newest(kit, "ranks").path))
            assert "table user: 29 rows of dim 6 (qr" in lines
            assert "    user#remainder:\n    rank 0: buckets 0 to 511; " in lines
            checked = kit.run("inspect", f"lmdb://{kit.folder}/ranks/store", "--against", kit.folder / "ranks/state")
            assert checked.returncode == 0, checked.stdout + checked.stderr
