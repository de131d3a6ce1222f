"""A job with two tasks, from Parquet to an answer over HTTP, as a user types it."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith.serving import Client
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e

ROWS = 4_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kit_class):
    """A trained shop: who clicks, and what those who click pay (a third of the prices are unknown)."""
    kit = kit_class(tmp_path_factory.mktemp("shop"))
    rng = np.random.default_rng(1)
    user, item, age = rng.integers(0, 20, ROWS), rng.integers(0, 30, ROWS), rng.normal(40, 10, ROWS)
    clicked = rng.random(ROWS) < np.where(user % 2, 0.9, 0.1)
    paid = np.where(rng.random(ROWS) < 1 / 3, np.nan, 5.0 + item % 5)
    columns = {"user": user, "item": item, "age": age, "clicked": clicked, "t": 1_700_000_000_000 + np.arange(ROWS)}
    price = pa.array([None if np.isnan(x) else x for x in paid])
    pq.write_table(pa.table({**columns, "paid": price}), kit.folder / "shop.parquet")
    kit.folder.joinpath("shop.yaml").write_text("""\
name: shop
input:
  samples: parquet://shop.parquet?time=t&item=item&features=user,item,age&label=click:clicked,price:paid
  follow: false
tables:
  - {name: user, dim: 5}
  - {name: item, dim: 5}
  - {name: wide, dim: 1, features: [item]}
features:
  - {name: age, type: float, transforms: [{kind: standardize, mean: 40, std: 10}]}
labels:
  - {name: click}
  - {name: price, loss: squared, weight: 0.1}
model: {kind: deepfm, hidden: [16]}
dense_optimizer: {lr: 0.01}
train: {batch_size: 32, window_samples: 500}
state: state
store: lmdb://store
""")
    ended = kit.run("train", "shop.yaml")
    assert ended.returncode == 0, ended.stderr
    return kit, ended


def test_each_task_is_learnt_and_has_its_metrics(shop):
    kit, ended = shop
    status = read_status(kit.folder / "state/status.json")
    assert status.samples == ROWS
    click, price = (status.metrics["tasks"][name] for name in ("click", "price"))
    assert click["total"]["samples"] == ROWS
    assert price["total"]["samples"] < 0.75 * ROWS  # those that have a price
    assert click["window"]["auc"] > 0.85
    assert price["window"]["rmse"] < 0.5 * price["total"]["mean_label"]
    assert "click AUC 0." in ended.stderr
    assert "price RMSE " in ended.stderr


def test_the_store_has_what_the_trainer_has_and_a_second_start_trains_nothing(shop):
    kit, _ = shop
    compared = kit.run("inspect", "lmdb://store", "--against", "state")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    before = read_status(kit.folder / "state/status.json")
    assert kit.run("train", "shop.yaml").returncode == 0
    after = read_status(kit.folder / "state/status.json")
    assert (after.samples, after.metrics) == (before.samples, before.metrics)


def test_a_server_answers_by_task(shop):
    kit, _ = shop
    port = free_port()
    server = kit.spawn("serve", "shop.yaml", "--port", port)
    try:
        kit.wait(lambda: answers(f"http://127.0.0.1:{port}/ready"), "a ready server")
        samples = [{"user": u, "item": 4, "age": 40.0} for u in (1, 2)]
        body = json.dumps({"samples": samples}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, headers)
        answer = json.load(urllib.request.urlopen(request))
        assert "probabilities" not in answer
        often, seldom = answer["predictions"]["click"]
        assert 0 < seldom < 0.5 < often < 1
        assert all(5 < price < 13 for price in answer["predictions"]["price"])
        with Client(f"http://127.0.0.1:{port}") as client:
            served = client.predict(samples)
        np.testing.assert_allclose(served["price"], answer["predictions"]["price"], rtol=1e-6)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0, kit.output()


def test_tasks_on_joined_streams_are_refused_in_words(shop):
    kit, _ = shop
    refused = kit.run("train", kit.job("joined", labels=[{"name": "a"}, {"name": "b"}]))
    assert refused.returncode == 1
    assert "2 tasks, but features are joined with actions, which label one task" in refused.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except (urllib.error.URLError, OSError):
        return False
