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


def test_online_beats_frozen_on_ones_own_stream_and_the_job_is_not_touched(shop):
    done = shop.run("bench", "online", "shop.yaml", "--dir", "bench")
    assert done.returncode == 0, done.stderr
    assert "shop: 6,000 samples of its own streams" in done.stdout
    result = json.loads((shop.folder / "bench/online.json").read_text())
    assert result["samples"] == pytest.approx(1200, abs=260)  # the cut is at a step's boundary
    assert result["gains"]["online1 - frozen1"]["auc"] > 0.05
    assert result["gains"]["online1 - frozen1"]["gauc"] is not None
    assert f"online1 {result['ways']['online1']['auc']:.4f}" in " ".join(done.stdout.split())
    assert (shop.folder / "bench/online.png").read_bytes()[:4] == b"\x89PNG"
    assert not (shop.folder / "state").exists()
    assert not (shop.folder / "store").exists()


def test_the_cut_and_the_part_are_the_users_choice(shop):
    words = ("--share", "0.5", "--until", "2023-11-14T23:13:20", "--dir", "part")  # START_MS + 3,600 s
    done = shop.run("bench", "online", "shop.yaml", *words)
    assert "shop: 3,600 samples of its own streams" in done.stdout, done.stderr
    assert json.loads((shop.folder / "part/online.json").read_text())["samples"] == pytest.approx(1800, abs=260)


def test_without_the_grouping_feature_gauc_is_left_out_and_named(shop):
    sets = "tables=[{name: item, dim: 3}]", "input.unknown_features=ignore"
    done = shop.run("bench", "online", "shop.yaml", "--dir", "no", *(w for s in sets for w in ("--set", s)))
    assert done.returncode == 0, done.stderr
    assert "no GAUC: no table reads the feature 'user'; train.group_by names another one" in done.stdout
    assert json.loads((shop.folder / "no/online.json").read_text())["ways"]["online1"]["gauc"] is None


ONES = "input.samples=parquet://ones.parquet?time=t&item=item&request=t&features=user,item&label=clicked"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("shop.yaml", "--set", ONES), "an AUC needs labels of both kinds"),
        (("shop.yaml", "--set", "labels=[{name: clicked, loss: squared}]"), "'clicked' has the loss squared"),
        (("shop.yaml", "--share", "1"), "--share 1: allowed is more than 0 and less than 1"),
        (("shop.yaml", "--from", "2030-01-01"), "no sample to compare on"),
        (("shop.yaml", "--data", "synthetic"), "--data is for the known streams"),
        (("--from", "2030-01-01"), "--from and --until cut the streams of a job of your own"),
        (("shop.yaml", "--set", "input.samples=log://nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(shop, words, says):
    done = shop.run("bench", "online", *words, "--dir", "refused")
    assert done.returncode == 1
    assert says in done.stderr
