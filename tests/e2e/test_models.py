"""A network of the user's own, and one with norm and dropout: trained, killed, restored and served as ours are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from monolith.commands.compare import compare_snapshots
from monolith.training.snapshot import Snapshots

pytestmark = pytest.mark.e2e

ROWS = 3_000
NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, vectors, dense, tasks, *, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(sum(vectors.values()) + sum(dense.values()), width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Dropout(0.1), nn.Linear(width, tasks),
        )

    def forward(self, inputs):
        return self.layers(torch.cat(list(inputs.values()), dim=1))


class Branch(Net):
    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs if outputs.isfinite().all() else torch.zeros_like(outputs)
"""
OWN = {"kind": "mynets.nets:Net", "options": {"width": 8}}
OURS = {"kind": "dcnv2", "hidden": [8], "norm": "batch", "dropout": 0.1, "embedding_l2": 1e-4}
PREDICT = """
import json, sys
sys.modules["torch"] = None  # an import of it would fail
from monolith.serving import Replica
replica = Replica.open("lmdb://{store}", model="shop")
print(json.dumps(replica.predict([{{"user": u, "item": 4, "age": 40.0}} for u in (1, 2)]).values["label"].tolist()))
replica.close()
"""


@pytest.fixture
def shop(kit, monkeypatch):
    """Parquet of who clicks, and a package with the networks on PYTHONPATH."""
    rng = np.random.default_rng(1)
    user, item, age = rng.integers(0, 20, ROWS), rng.integers(0, 30, ROWS), rng.normal(40, 10, ROWS)
    clicked = rng.random(ROWS) < np.where(user % 2, 0.9, 0.1)
    columns = {"user": user, "item": item, "age": age, "clicked": clicked, "t": 1_700_000_000_000 + np.arange(ROWS)}
    pq.write_table(pa.table(columns), kit.folder / "shop.parquet")
    package = kit.folder / "code" / "mynets"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").touch()
    package.joinpath("nets.py").write_text(NETS)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return kit


def job(kit, name: str, model: dict[str, Any], **settings: Any) -> str:
    url = "parquet://shop.parquet?time=t&item=item&features=user,item,age&label=clicked"
    whole = {
        "name": "shop",
        "input": {"samples": url, "follow": False},
        "tables": [{"name": "user", "dim": 5}, {"name": "item", "dim": 3}],
        "features": [{"name": "age", "type": "float", "transforms": [{"kind": "standardize", "mean": 40, "std": 10}]}],
        "model": model,
        "dense_optimizer": {"lr": 0.01},
        "train": {
            "batch_size": 16, "step_records": 64, "step_linger_s": 30.0, "publish_every_s": 0.0,
            "snapshot_every_s": 0.05, "window_samples": 1000,
        },
        "state": f"{name}/state",
        "store": f"lmdb://{name}/store",
    }  # fmt: skip
    kit.folder.joinpath(f"{name}.yaml").write_text(yaml.safe_dump({**whole, **settings}))
    return f"{name}.yaml"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", [OWN, OURS], ids=["own", "dcnv2"])
def test_killed_it_ends_in_the_bits_of_an_unkilled_run_and_is_served_without_torch(shop, model):
    calm = shop.run("train", job(shop, "calm", model))
    assert calm.returncode == 0, calm.stderr
    killed, snapshots = job(shop, "killed", model), Snapshots(shop.folder / "killed/state/snapshots")
    reached = 0
    for _ in range(2):
        daemon = shop.spawn("train", killed)
        shop.wait(lambda d=daemon, r=reached: d.poll() is not None or _newest(snapshots) > r, "a snapshot")
        daemon.kill()
        daemon.wait()
        reached = _newest(snapshots)
    assert shop.run("train", killed).returncode == 0
    both = [Snapshots(shop.folder / name / "state/snapshots").newest().path for name in ("calm", "killed")]
    assert [d for d in compare_snapshots(*both) if not d.startswith("lineage")] == []
    compared = shop.run("inspect", "lmdb://killed/store", "--against", "killed/state")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    answers = [served(shop, name) for name in ("calm", "killed")]
    assert answers[0] == answers[1]
    often, seldom = answers[0]
    assert seldom < 0.4 < 0.6 < often


def _newest(snapshots: Snapshots) -> int:
    return max(snapshots.steps(), default=0)


def served(kit, name: str) -> list[float]:
    """What a process answers that can import neither torch nor the user's package."""
    code = PREDICT.format(store=kit.folder / name / "store")
    asked = subprocess.run(
        [sys.executable, "-c", code], env={}, capture_output=True, text=True, timeout=60, check=False
    )
    assert asked.returncode == 0, asked.stderr
    answer: list[float] = json.loads(asked.stdout)
    return answer


def test_what_onnx_cannot_say_is_refused_with_a_store_and_trained_without_one(shop):
    branch = {"kind": "mynets.nets:Branch"}
    refused = shop.run("train", job(shop, "shop", branch))
    assert refused.returncode == 1
    assert "model mynets.nets:Branch cannot be served: torch makes no ONNX graph of it" in refused.stderr
    assert "train it without a store" in refused.stderr
    assert "Traceback" not in refused.stderr
    mended = shop.run("train", job(shop, "shop", OWN))
    assert mended.returncode == 0, mended.stderr  # the refused start has bound the state folder to nothing
    alone = shop.run("train", job(shop, "alone", branch, store=None))
    assert alone.returncode == 0, alone.stderr
    assert "AUC 0." in alone.stderr


def test_a_class_that_is_not_there_is_a_sentence(shop):
    refused = shop.run("train", job(shop, "shop", {"kind": "mynets.nest:Net"}))
    assert refused.returncode == 1
    assert "the module 'mynets.nest' cannot be imported (its folder must be on PYTHONPATH)" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_dropout_and_l2_may_change_between_two_starts_and_the_network_may_not(shop):
    assert shop.run("train", job(shop, "shop", OURS)).returncode == 0
    tuned = shop.run("train", job(shop, "shop", {**OURS, "dropout": 0.0, "embedding_l2": 0.0}))
    assert tuned.returncode == 0, tuned.stderr
    other = shop.run("train", job(shop, "shop", {**OURS, "norm": "layer"}))
    assert other.returncode == 1
    assert "model.norm was 'batch', now 'layer': the state folder is of another model" in other.stderr
