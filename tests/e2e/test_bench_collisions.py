"""`monolith bench collisions`, and `bench online` on prepared sets, as a user types them."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e

WORDS = ("--sizes", "0.05", "--epochs", "2", "--set", "train.batch_size=64", "--set", "tables.*.optimizer.lr=0.02")


@pytest.fixture(scope="module")
def kit(tmp_path_factory, kit_class):
    """A click log in which every item has a rate of its own, in lists of four, prepared by time and at random."""
    kit = kit_class(tmp_path_factory.mktemp("collisions"))
    rng = np.random.default_rng(3)
    item = rng.integers(0, 40, 4_000)
    columns = {
        "user": rng.integers(0, 50, 4_000),
        "item": item,
        "clicked": (rng.random(4_000) < 1 / (1 + np.exp(-rng.normal(0, 3, 40)[item]))).astype(np.int8),
        "ts": np.arange(4_000) // 4,
        "shown": np.arange(4_000) // 4,
    }
    pq.write_table(pa.table(columns), kit.folder / "log.parquet")
    text = """\
name: NAME
files: [log.parquet]
label: {column: clicked}
time: {column: ts, unit: s}
features: [user, item]
item: item
group: user
split: SPLIT
"""
    splits = {"shop": "{kind: lists}\nlists: shown", "mixed": "{kind: random}"}
    for name, split in splits.items():
        kit.folder.joinpath(f"{name}.yaml").write_text(text.replace("NAME", name).replace("SPLIT", split))
        done = kit.run("data", "prepare", f"{name}.yaml", "--to", name)
        assert done.returncode == 0, done.stderr
    return kit


def result_of(kit, path: str) -> dict:
    return json.loads((kit.folder / path).read_text())


def test_shared_rows_cost_auc_by_epoch_and_along_the_stream(kit):
    done = kit.run("bench", "collisions", "--data", "shop", "--dir", "c", *WORDS)
    assert done.returncode == 0, done.stderr
    result = result_of(kit, "c/collisions.json")
    own, hashed = result["variants"]["collisionless"], result["variants"]["hashed, 0.05 rows an id"]
    assert hashed["tables"]["item"] == {"ids": 40, "rows": 2, "lost": 0.95, "expected": pytest.approx(0.95, abs=0.01)}
    assert "table item: 40 ids in 2 rows, lost 95.00% (expected 95.00%)" in done.stdout
    for moment in ("best", "stream"):
        assert own["auc"][moment]["mean"] > hashed["auc"][moment]["mean"] + 0.05
        assert hashed["verdicts"][moment] == "higher"
    assert (kit.folder / "c/collisions.png").read_bytes()[:4] == b"\x89PNG"
    lines = (kit.folder / "c/runs.jsonl").read_text().splitlines()
    assert len(lines) == 3 * len(result["variants"])

    again = kit.run("bench", "collisions", "--data", "shop", "--dir", "c", *WORDS)
    assert again.stdout == done.stdout
    assert (kit.folder / "c/runs.jsonl").read_text().splitlines() == lines  # nothing was run a second time


def test_a_set_at_random_is_judged_by_its_test_part_and_has_no_stream(kit):
    words = ("--data", "mixed", "--dir", "m", "--seeds", "1", *WORDS)
    done = kit.run("bench", "collisions", "--events", "1000", *words)
    assert done.returncode == 0, done.stderr
    assert list(result_of(kit, "m/collisions.json")["variants"]["collisionless"]["auc"]) == ["first", "best"]
    assert "not claimed" in done.stdout
    read = int(re.search(r"mixed: (\S+) samples", done.stdout)[1].replace(",", ""))
    assert 1_200 < read < 1_800  # 1,000, what is left of a journal step, and the test part


def test_online_learning_on_a_prepared_set_ranks_its_lists(kit):
    done = kit.run("bench", "online", "--data", "shop", "--dir", "o", "--seeds", "1", "--syncs", "5")
    assert done.returncode == 0, done.stderr
    assert "shop: 4,000 samples" in done.stdout
    run = json.loads((kit.folder / "o/runs.jsonl").read_text())
    assert run["samples"] % 4 == 0  # whole lists
    assert run["scores"]["online1"]["whole"]["lists"] is not None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("online", "--data", "mixed"), "it has no order of time to go on learning in"),
        (("online", "--data", "nothing"), "there is no data set 'nothing'; allowed: ml-100k, synthetic, ml-1m"),
        (("online", "--data", "trivago"), "`monolith data prepare trivago --from DIR` does that"),
        (("collisions", "--data", "shop", "--tables", "shoe"), "the job has no such table; it has user, item"),
        (("collisions", "--data", "shop", "--share", "0"), "--share 0: allowed is more than 0 and less than 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(kit, words, says, monkeypatch):
    monkeypatch.setenv("MONOLITH_DATA", str(kit.folder / "cache"))
    done = kit.run("bench", *words, "--dir", "refused")
    assert done.returncode == 1
    assert says in done.stderr
