"""A job whose tables are of all kinds: trained, killed, replayed, served, compared and exported as any other."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from monolith.commands.compare import compare_snapshots
from monolith.config import load_job
from monolith.serving import Replica
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.tables.hashing import salted
from monolith.training.learner import Learner
from monolith.training.snapshot import Snapshots

pytestmark = pytest.mark.e2e

TABLES = [
    {"name": "user", "dim": 8, "kind": "hashed", "rows": 30, "optimizer": {"kind": "adagrad"}},
    {"name": "item", "dim": 8, "kind": "qr", "rows": 60, "combine": "product", "optimizer": {"kind": "adam"}},
    {"name": "tags", "dim": 8, "optimizer": {"kind": "rowwise_adagrad"}, "pooling": "mean"},
    {
        "name": "pair",
        "dim": 8,
        "kind": "qr",
        "rows": 90,
        "remainders": 7,
        "combine": "concat",
        "features": ["user", "item"],
    },
    {
        "name": "narrow",
        "dim": 8,
        "kind": "optembed",
        "width": 3,
        "features": ["user", "item"],
        "admission": {"kind": "min_count", "count": 2},
        "absent": {"kind": "hashed_tail", "rows": 2},
    },
    {"name": "hot", "dim": 8, "kind": "cafe", "rows": 12, "own_rows": 9, "features": ["item"]},
    {"name": "mix", "dim": 4, "kind": "unified", "rows": 70, "features": ["item"], "probes": {"item": 2}},
]
SAMPLES = [{"user": 3, "item": 70, "tags": ["t1", "t4"]}, {"user": 10**9, "item": -5, "tags": []}, {"item": 3}]
IDS = np.array([3, 70, -5, 10**9, 0], np.int64)
NEWEST = "state/snapshots"


def newest(kit, name: str):
    return Snapshots(kit.folder / name / NEWEST).newest().path


def learner_of(kit, job) -> Learner:
    """The model as its newest snapshot has it."""
    learner = Learner(load_job(job))
    snapshot = newest(kit, job.stem)
    learner.load_tables(snapshot / "tables")
    learner.load_dense_state((snapshot / "dense.safetensors").read_bytes())
    return learner


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.service)])
def store_of(request, kit):
    """Turns a job's name into its store's URL."""
    if request.param == "lmdb":
        return lambda name: f"lmdb://{kit.folder}/{name}/store"
    server = request.getfixturevalue("redis_server")
    return lambda name: f"{server.url}?model={name}" if "?" not in server.url else server.url


def test_a_job_of_all_kinds_is_served_inspected_compared_and_exported(kit, store_of):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_500)
    job, url = kit.job("kinds", tables=TABLES, store=store_of("kinds")), store_of("kinds")
    ended = kit.run("train", job)
    assert ended.returncode == 0, ended.stderr
    learner = learner_of(kit, job)
    _compare_answers(learner, url)

    compared = kit.run("inspect", url, "--model", "e2e", "--against", "kinds/state")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    parts = {
        "user": 30,
        "item#quotient": 8,
        "item#remainder": 8,
        "pair#quotient": 13,
        "mix": 70,
        "hot": 9,
        "hot#tail": 12,
    }
    for part, rows in parts.items():
        assert f"table {part}: {rows} equal, 0 missing, 0 stale, 0 zombie" in compared.stdout
    told = kit.run("inspect", url, "--model", "e2e").stdout
    assert "table item is kind qr, rows 60, remainders 8, combine product" in told
    assert "table mix is kind unified, rows 70, probes (item 2)" in told
    kept = kit.run("inspect", "kinds/state").stdout
    assert "table mix: 70 rows of dim 4 (unified, " in kept
    assert "table hot: 21 rows of dim 8 (cafe, " in kept
    assert "table item: 16 rows of dim 8 (qr, " in kept
    assert "table user: 30 rows of dim 8 (hashed, " in kept
    _compare_exports(kit, url, learner)

    refused = kit.run("train", job, "--set", "tables.item.remainders=9")
    assert refused.returncode != 0
    assert "tables[1].remainders was None, now 9: the state folder is of another model" in refused.stderr


def _compare_answers(learner: Learner, url: str) -> None:
    """Both modes give the trainer's vectors to the bit, and its predictions within rounding."""
    from batches import batch_of

    expected = learner.score(batch_of(learner.job, SAMPLES, [0, 0, 0]))
    for mode in ("memory", "direct"):
        with Replica.open(url, model="e2e", mode=mode) as replica:
            for name in ("user", "item"):
                np.testing.assert_array_equal(replica.lookup(f"{name}@{name}", IDS), learner.tables[name].lookup(IDS))
            np.testing.assert_array_equal(replica.lookup("pair", IDS), learner.tables["pair"].lookup(IDS))
            mixed = replica.lookup("item@mix", IDS)
            assert mixed.shape == (5, 8)
            np.testing.assert_array_equal(mixed, learner.tables["mix"].lookup(salted("item", IDS)))
            rows = learner.tables["mix"].published()["mix"].rows()[1]
            np.testing.assert_array_equal(replica.lookup("mix", [0, 69]), rows[[0, 69]])
            np.testing.assert_array_equal(replica.lookup("item@hot", IDS), learner.tables["hot"].lookup(IDS))
            np.testing.assert_array_equal(
                replica.lookup("item#remainder", [3]),
                learner.tables["item"].published()["item#remainder"].rows()[1][3:4],
            )
            np.testing.assert_allclose(replica.predict(SAMPLES).probabilities, expected, atol=1e-5)


def _compare_exports(kit, url: str, learner: Learner) -> None:
    import pyarrow.parquet as pq

    for source, more, out in ((url, ["--model", "e2e"], "served"), ("kinds/state", [], "kept")):
        done = kit.run("export", source, *more, "--table", "item#quotient", "--out", f"{out}.parquet")
        assert done.returncode == 0, done.stderr
        rows = pq.read_table(kit.folder / f"{out}.parquet").sort_by("id")
        ids, values = learner.tables["item"].published()["item#quotient"].rows()
        assert rows["id"].to_pylist() == ids.tolist() == list(range(len(ids)))
        assert np.array_equal(np.array(rows["values"].to_pylist(), np.float32), values)
    unknown = kit.run("export", "kinds/state", "--table", "item", "--out", "none.parquet")
    assert unknown.returncode != 0
    assert "item#quotient, item#remainder" in unknown.stderr


def test_packed_rows_are_combined_after_they_are_unpacked(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=400)
    job, url = kit.job("kinds", tables=TABLES, publish={"payload": "int8_rowwise"}), f"lmdb://{kit.folder}/kinds/store"
    assert kit.run("train", job).returncode == 0
    learner = learner_of(kit, job)
    with Replica.open(url, model="e2e") as memory, Replica.open(url, model="e2e", mode="direct") as direct:
        for name, ids in (("item@item", IDS), ("pair", IDS), ("item@mix", salted("item", IDS))):
            served = memory.lookup(name, IDS)
            np.testing.assert_array_equal(served, direct.lookup(name, IDS))
            np.testing.assert_allclose(served, learner.tables[name.rpartition("@")[2]].lookup(ids), atol=0.02)


@pytest.mark.timeout(600)
def test_a_killed_run_of_all_kinds_ends_in_the_bits_of_a_calm_one_and_of_its_replay(kit):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=3_000)
    small = {
        "batch_size": 4,
        "step_records": 16,
        "snapshot_every_s": 0.2,
        "publish_every_s": 0.0,
        "step_linger_s": 30.0,
    }
    small["keep_journal"] = True
    calm, killed = (kit.job(name, tables=TABLES, train=small) for name in ("calm", "killed"))
    assert kit.run("train", calm).returncode == 0
    rng, kills = np.random.default_rng(1), 0
    while kills < 2:
        daemon = kit.spawn("train", killed)
        steps = len(Snapshots(kit.folder / "killed" / NEWEST).steps())
        kit.wait(lambda d=daemon, s=steps: _snapshots(kit) > s or d.poll() is not None, "a snapshot")
        try:
            daemon.wait(timeout=rng.uniform(0.0, 0.4))
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            kills += 1
            continue
        pytest.fail(f"the run ended after {kills} kills: give it more events\n{kit.output()[-2000:]}")
    assert kit.run("train", killed).returncode == 0
    found = compare_snapshots(newest(kit, "calm"), newest(kit, "killed"))
    assert [d for d in found if not d.startswith("lineage")] == []
    replayed = kit.run(
        "replay", killed, "--state", kit.folder / "again/state", "--store", f"lmdb://{kit.folder}/again/store"
    )
    assert "identical to the run's snapshot" in replayed.stdout, replayed.stdout + replayed.stderr
    for name in ("killed", "again"):
        stores = [open_store(f"lmdb://{kit.folder}/{n}/store", "e2e") for n in ("calm", name)]
        assert compare_images(*stores) == []
        for store in stores:
            store.close()


def _snapshots(kit) -> int:
    return (Snapshots(kit.folder / "killed" / NEWEST).steps() or [0])[-1]


def test_a_replica_follows_a_trainer_that_learns_from_parquet(kit):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    rows = {"t": np.arange(2_000), "user": rng.integers(0, 90, 2_000), "item": rng.integers(0, 300, 2_000)}
    pq.write_table(pa.table(rows | {"label": (rows["item"] + rows["user"]) % 2}), kit.folder / "s.parquet")
    url = f"parquet://{kit.folder}/s.parquet?time=t&item=item&features=user,item&label=label"
    tables = [t for t in TABLES if t["name"] != "tags"]
    given = {"samples": url, "features": None, "actions": None}
    job = kit.job("offline", tables=tables, features=[], input=given)
    ended = kit.run("train", job)
    assert ended.returncode == 0, ended.stderr
    learner = learner_of(kit, job)
    with Replica.open(f"lmdb://{kit.folder}/offline/store", model="e2e") as replica:
        np.testing.assert_array_equal(replica.lookup("pair", IDS), learner.tables["pair"].lookup(IDS))
    policy = kit.run("inspect", "policy", url, "--job", job, "--table", "item", "--admission", "min_count:2")
    assert policy.returncode != 0
    assert "--table item is of kind qr: rules of admission" in policy.stderr


def test_a_unified_table_gives_a_replica_vectors_of_several_widths_and_tells_which_ids_share_rows(kit):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from batches import batch_of

    rng = np.random.default_rng(0)
    rows = {"t": np.arange(2_000), "user": rng.integers(0, 90, 2_000), "item": rng.integers(0, 300, 2_000)}
    pq.write_table(pa.table(rows | {"label": (rows["item"] + rows["user"]) % 2}), kit.folder / "s.parquet")
    url = f"parquet://{kit.folder}/s.parquet?time=t&item=item&features=user,item&label=label"
    table = {"name": "all", "dim": 4, "kind": "unified", "rows": 200, "features": ["user", "item"]}
    table |= {"probes": {"item": 3}, "optimizer": {"kind": "adam"}}
    given = {"samples": url, "features": None, "actions": None}
    job = kit.job("one", tables=[table], features=[], input=given, model={"kind": "dcnv2", "hidden": [8]})
    checked = kit.run("check", job)
    assert "all: unified, dim 4, reads user, item, adam: 200 rows, " in checked.stdout
    assert kit.run("train", job).returncode == 0
    learner = learner_of(kit, job)
    samples = [{"user": 3, "item": 70}, {"user": 10**9, "item": -5}, {"item": 3}]
    expected = learner.score(batch_of(learner.job, samples, [0, 0, 0]))
    with Replica.open(f"lmdb://{kit.folder}/one/store", model="e2e") as replica:
        for name, width in (("user", 4), ("item", 12)):
            served = replica.lookup(name, IDS)
            assert served.shape == (5, width)
            np.testing.assert_array_equal(served, learner.tables["all"].lookup_of(name, salted(name, IDS)))
        np.testing.assert_allclose(replica.predict(samples).probabilities, expected, atol=1e-5)
    told = kit.run("inspect", "collisions", "--job", job)
    assert "table all: unified, 200 rows" in told.stdout, told.stderr
    found = json.loads(kit.run("inspect", "collisions", url, "--job", job, "--json").stdout)["features"]
    assert (found["user"]["ids"], found["item"]["probes"], found["item"]["occurrences"]) == (90, 3, 2_000)
    refused = kit.run("inspect", "collisions", "--job", job, "--table", "al")
    assert "--table al is none of the job's (did you mean 'all'?); tables whose ids share rows: all" in refused.stderr
    refused = kit.run("train", job, "--set", "tables.all.probes.item=2")
    assert "tables[0].probes.item was 3, now 2: the state folder is of another model" in refused.stderr
