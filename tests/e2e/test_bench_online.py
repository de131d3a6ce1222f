"""`monolith bench online JOB` on a user's own data, as a user types it; nothing of the job is touched."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e

ROWS = 6_000
START_MS = 1_700_000_000_000
JOB = """\
name: shop
input:
  samples: parquet://shop.parquet?time=t&item=item&request=t&features=user,item&label=clicked
tables:
  - {name: user, dim: 3}
  - {name: item, dim: 3}
model: {kind: fm}
train: {batch_size: 32}
state: state
store: lmdb://store
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kit_class):
    """A click log in which new items come at 80 %: whoever goes on learning must win."""
    kit = kit_class(tmp_path_factory.mktemp("online"))
    rng = np.random.default_rng(2)
    user = rng.integers(0, 30, ROWS)
    item = rng.integers(0, 10, ROWS) + 10 * (np.arange(ROWS) >= 0.8 * ROWS)
    clicked = rng.random(ROWS) < 1 / (1 + np.exp(-rng.normal(0, 2, 20)[item]))
    columns = {"user": user, "item": item, "clicked": clicked, "t": START_MS + np.arange(ROWS) * 1000}
    pq.write_table(pa.table(columns), kit.folder / "shop.parquet")
    pq.write_table(pa.table(columns | {"clicked": np.ones(ROWS, bool)}), kit.folder / "ones.parquet")
    kit.folder.joinpath("shop.yaml").write_text(JOB)
    return kit


@pytest.fixture(scope="module")
def compared(shop):
    """The whole comparison with three seeds."""
    return shop.run("bench", "online", "shop.yaml", "--dir", "bench", "--items", "item", "--syncs", "5,20")


def result_of(shop, folder: str) -> dict:
    return json.loads((shop.folder / folder / "online.json").read_text())


def test_online_beats_frozen_on_ones_own_stream_and_the_job_is_not_touched(shop, compared):
    assert compared.returncode == 0, compared.stderr
    assert "shop: 6,000 samples of its own streams" in compared.stdout
    result = result_of(shop, "bench")
    assert result["samples"] == pytest.approx(1200, abs=260)  # the cut is at a step's boundary
    assert result["seeds"] == [0, 1, 2]
    for measure in ("auc", "gauc", "lists", "ranking"):
        assert result["gains"]["online1 - frozen1"][measure]["mean"] > 0.02
    assert result["gains"]["online1 - frozen1"]["auc"]["verdict"] == "higher"
    assert "AUC      holds          online1 - frozen1" in compared.stdout
    assert f"online1 {result['ways']['online1']['auc']['mean']:.4f} ±" in " ".join(compared.stdout.split())
    assert (shop.folder / "bench/online.png").read_bytes()[:4] == b"\x89PNG"
    assert not (shop.folder / "state").exists()
    assert not (shop.folder / "store").exists()


def test_serving_that_is_synchronised_more_often_is_better(shop, compared):
    ways = result_of(shop, "bench")["ways"]
    often = [ways[way]["auc"]["mean"] for way in ("frozen1", "online1 1/5", "online1 1/20")]
    assert sorted(often) == often
    assert "shorter intervals no worse than longer ones" in compared.stdout


def test_seeds_that_are_there_are_not_run_again_and_more_are_added(shop, compared):
    lines = (shop.folder / "bench/runs.jsonl").read_text().splitlines()
    words = ("shop.yaml", "--dir", "bench", "--items", "item", "--syncs", "5,20", "--seeds", "4")
    done = shop.run("bench", "online", *words)
    assert done.returncode == 0, done.stderr
    assert "seed 3" in done.stderr
    assert "seed 0" not in done.stderr
    assert (shop.folder / "bench/runs.jsonl").read_text().splitlines()[:3] == lines
    assert result_of(shop, "bench")["seeds"] == [0, 1, 2, 3]


def test_settings_from_the_cut_on_do_not_change_what_is_frozen(shop, compared):
    words = ("--seeds", "1", "--items", "item", "--syncs", "5", "--online-set", "tables.*.optimizer.lr=1e-9")
    done = shop.run("bench", "online", "shop.yaml", "--dir", "slow", *words)
    assert done.returncode == 0, done.stderr
    first, slow = (json.loads((shop.folder / d / "runs.jsonl").read_text().splitlines()[0]) for d in ("bench", "slow"))
    assert slow["scores"]["frozen1"] == first["scores"]["frozen1"]
    assert slow["scores"]["online1"]["whole"]["auc"] < first["scores"]["online1"]["whole"]["auc"] - 0.02
    assert "not claimed" in done.stdout


def test_the_cut_and_the_part_are_the_users_choice(shop):
    words = ("--share", "0.5", "--until", "2023-11-14T23:13:20", "--dir", "part")  # START_MS + 3,600 s
    done = shop.run("bench", "online", "shop.yaml", "--seeds", "1", "--syncs", "5", *words)
    assert "shop: 3,600 samples of its own streams" in done.stdout, done.stderr
    assert result_of(shop, "part")["samples"] == pytest.approx(1800, abs=260)


def test_without_the_grouping_feature_gauc_is_left_out_and_named(shop):
    sets = "tables=[{name: item, dim: 3}]", "input.unknown_features=ignore"
    words = ("--dir", "no", "--seeds", "1", "--syncs", "5", *(w for s in sets for w in ("--set", s)))
    done = shop.run("bench", "online", "shop.yaml", *words)
    assert done.returncode == 0, done.stderr
    assert "no GAUC: no table reads the feature 'user'; train.group_by names another one" in done.stdout
    assert result_of(shop, "no")["ways"]["online1"]["gauc"] is None


def test_a_known_stream_is_compared_with_the_truth_and_with_a_history(shop):
    words = (
        "--data",
        "synthetic",
        "--events",
        "1500",
        "--seeds",
        "1",
        "--syncs",
        "5",
        "--history",
        "5",
        "--dir",
        "syn",
    )
    done = shop.run("bench", "online", *words)
    assert done.returncode == 0, done.stderr
    ways = result_of(shop, "syn")["ways"]
    assert all(ways["best"]["auc"]["mean"] > ways[way]["auc"]["mean"] for way in ("frozen", "online1"))


ONES = "input.samples=parquet://ones.parquet?time=t&item=item&request=t&features=user,item&label=clicked"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("shop.yaml", "--set", ONES), "an AUC needs labels of both kinds"),
        (("shop.yaml", "--set", "labels=[{name: clicked, loss: squared}]"), "'clicked' has the loss squared"),
        (("shop.yaml", "--share", "1"), "--share 1: allowed is more than 0 and less than 1"),
        (("shop.yaml", "--from", "2030-01-01"), "no sample to compare on"),
        (("shop.yaml", "--data", "synthetic"), "--data is for the known streams"),
        (("shop.yaml", "--history", "3"), "--history is for the known streams"),
        (
            ("shop.yaml", "--items", "colour,item"),
            "--items colour: no table reads it; the job's features are user, item",
        ),
        (("--from", "2030-01-01"), "--from and --until cut the streams of a job of your own"),
        (("shop.yaml", "--set", "input.samples=log://nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(shop, words, says):
    done = shop.run("bench", "online", *words, "--dir", "refused")
    assert done.returncode == 1
    assert says in done.stderr
