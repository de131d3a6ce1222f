"""Jobs with several tasks, from Parquet and from joined streams, to an answer over HTTP, as a user types it."""

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
from monolith.streaming.source import open_sink
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


# --- joined streams ---------------------------------------------------------------------------------------------------

SHOWN = 3_000
START_MS = 1_700_000_000_000
JOINED = """\
name: stream
input:
  features: log://shown
  actions: log://acted
  dead_letters: log://dead
  follow: false
join: {window_s: 60, early_s: 10, dedup_s: 120, negative_rate: 0.5}
tables:
  - {name: user, dim: 5}
  - {name: item, dim: 5}
labels:
  - {name: click, actions: [click]}
  - {name: buy, actions: [buy], weight: 0.5}
  - {name: watch_s, loss: squared, value: watch, weight: 0.01}
model: {kind: deepfm, hidden: [16]}
dense_optimizer: {lr: 0.01}
train: {batch_size: 32, window_samples: 500, keep_journal: true}
state: joined/state
store: lmdb://joined/store
"""


@pytest.fixture(scope="module")
def stream(tmp_path_factory, kit_class):
    """A trained stream: users with odd numbers click often, those who click buy a third of the time, and some watch."""
    kit = kit_class(tmp_path_factory.mktemp("stream"))
    rng, shown, acted, counts = np.random.default_rng(2), [], [], {"click": 0, "buy": 0, "watch": 0, "any": 0}
    for i in range(SHOWN):
        user, item, at_ms = int(rng.integers(0, 20)), int(rng.integers(0, 30)), START_MS + 1000 * i
        key = {"v": 1, "request_id": f"r{i}", "item_id": str(item)}
        features = {"user": user, "item": item}
        shown.append((at_ms, {"type": "feature", **key, "event_time_ms": at_ms, "features": features}))
        did = {"click": {}} if rng.random() < (0.8 if user % 2 else 0.1) else {}
        if did and rng.random() < 1 / 3:
            did["buy"] = {}
        if rng.random() < 0.4:
            did["watch"] = {"value": 5.0 + item % 5}
        counts = {name: count + (name in did or (name == "any" and bool(did))) for name, count in counts.items()}
        for name, more in did.items():
            after_ms = at_ms + int(rng.integers(1, 50)) * 1000
            event = {"type": "action", **key, "event_time_ms": after_ms, "action": name, **more}
            acted += [(after_ms, event)] * (1 + (i % 10 == 0))  # some come twice
    acted.append((acted[-1][0], {**acted[-1][1], "action": "watch", "request_id": "other", "value": "long"}))
    for name, events in (("shown", shown), ("acted", sorted(acted, key=lambda event: event[0]))):
        sink = open_sink(f"log://{kit.folder / name}")
        sink.append([(event["request_id"].encode(), json.dumps(event).encode(), at_ms) for at_ms, event in events])
        sink.close()
    kit.folder.joinpath("joined.yaml").write_text(JOINED)
    ended = kit.run("train", "joined.yaml")
    assert ended.returncode == 0, ended.stderr
    return kit, counts


def test_tasks_of_joined_streams_are_learnt_from_their_actions_and_values(stream):
    kit, counts = stream
    status = read_status(kit.folder / "joined/state/status.json")
    click, buy, watch = (status.metrics["tasks"][name] for name in ("click", "buy", "watch_s"))
    negatives = status.samples - counts["any"]
    assert 0.4 < negatives / (SHOWN - counts["any"]) < 0.6  # half of those without any action
    assert click["total"]["samples"] == buy["total"]["samples"] == status.samples
    assert click["total"]["positives"] == counts["click"]
    assert buy["total"]["positives"] == counts["buy"]
    assert watch["total"]["samples"] == counts["watch"]
    assert 6.8 < watch["total"]["mean_label"] < 7.2
    assert click["window"]["auc"] > 0.8
    assert watch["window"]["rmse"] < 0.6 * watch["total"]["rmse"]


def test_an_action_whose_value_is_no_number_is_a_dead_letter(stream):
    kit, _ = stream
    told = kit.run("inspect", "log://dead", "--head", 5).stdout
    assert "1 records" in told
    assert "task 'watch_s': the label is 'long', allowed: -1000000 to 1000000" in told


def test_a_replay_of_gathered_labels_ends_in_the_same_bits(stream):
    kit, _ = stream
    replayed = kit.run("replay", "joined.yaml", "--state", "again/state")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "identical to the run's snapshot" in replayed.stdout


def test_a_what_if_replay_reads_a_job_with_gathered_labels(stream):
    kit, _ = stream
    told = kit.run("inspect", "policy", "--job", "joined.yaml", "--table", "user", "--admission", "min_count:2")
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_task_of_joined_streams_that_no_action_makes_is_refused_in_words(stream):
    kit, _ = stream
    refused = kit.run("train", "joined.yaml", "--set", "labels.buy.actions=[]")
    assert refused.returncode == 1
    assert "labels[1].name: nothing makes the label of 'buy'" in refused.stderr
    assert "give actions: [ACTION, ...], or value: ACTION" in refused.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except (urllib.error.URLError, OSError):
        return False
