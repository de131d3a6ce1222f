"""`monolith optembed` as a user types it: stages that survive a kill, tables within the bytes, served and online."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from shop import open_shop

from monolith.cli import parser
from monolith.config import load_job
from monolith.errors import MonolithError
from monolith.growing import alone
from monolith.optembed.stages import WRITES
from monolith.serving import Replica
from monolith.tables.kinds import open_to_read
from monolith.training.snapshot import Snapshots

pytestmark = pytest.mark.e2e

ROWS = 6_000
CUT = "2023-11-14T23:36:40"  # START_MS + 5,000 s
JOB = """\
name: shop
input:
  samples: parquet://shop.parquet?time=t&item=item&request=t&features=user,item,city&label=clicked
  follow: false
tables:
  - {name: user, dim: 6, kind: optembed, absent: {kind: hashed_tail, rows: 1}}
  - {name: item, dim: 6, kind: optembed}
  - {name: city, dim: 6}
features:
  - {name: city, type: string}
model: {kind: deepfm, hidden: [8], dropout: 0.1}
train: {batch_size: 128, publish_every_s: 0}
fit: {epochs: 3, patience: 3, validation: {kind: random, share: 0.2}}
state: state
store: lmdb://store
"""
BYTES = 9_000
ASK = ("optembed", "shop.yaml", "--bytes", BYTES, "--until", CUT, "--generations", "2", "--population", "4")
OWN = f"bytes-{BYTES}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kit_class):
    """A click log of which the first part is searched, and the rest trained online."""
    kit = open_shop(kit_class(tmp_path_factory.mktemp("optembed")), JOB, rows=ROWS, users=300)
    kit.done = kit.run(*ASK, "--dir", "whole")
    assert kit.done.returncode == 0, kit.done.stderr
    return kit


@pytest.fixture
def here(shop, monkeypatch):
    """For commands in this process: as if typed in the folder."""
    monkeypatch.chdir(shop.folder)
    return shop


def asked(*words: object) -> int:
    args = parser().parse_args([str(word) for word in words])
    return args.run(args)


def outcome(kit, folder: str) -> dict:
    return json.loads((kit.folder / folder / OWN / "outcome.json").read_bytes())


def tables_of(kit, folder: str, job: str) -> dict:
    start = Snapshots(kit.folder / folder / OWN / job / "start", keep=1).newest()
    return {name: open_to_read(start.path / "tables" / name) for name in ("user", "item", "city")}


def test_the_tables_fit_and_are_told_drawn_and_logged(shop):
    found = outcome(shop, "whole")
    assert found["bytes"] == sum(table["bytes"] for table in found["tables"]) <= BYTES < found["full_bytes"] / 2
    made = tables_of(shop, "whole", "serving")
    for table in found["tables"]:
        own = made[table["name"]]
        assert (len(own), own.num_bytes(), own.config.width) == (table["rows"], table["bytes"], table["width"])
        assert 20 * table["small"] <= max(20, table["rows"] + 19)
    assert f"{found['bytes']:,} bytes" in shop.done.stdout
    log = [json.loads(line) for line in (shop.folder / "whole" / OWN / "search.jsonl").read_text().splitlines()]
    assert 4 < len(log) <= 12
    assert all(one["bytes"] <= BYTES for one in log)
    assert max(one["score"] for one in log) == found["found_score"]
    assert (shop.folder / "whole" / OWN / "search.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_search_is_told_again_and_nothing_is_done(here, capsys):
    assert asked(*ASK, "--dir", "whole", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == outcome(here, "whole")
    assert "epoch" not in told.err


@pytest.mark.parametrize("line", ["supernet epoch 2", "generation 0/2", "retrain epoch 1"])
def test_a_call_that_was_killed_goes_on_and_ends_in_the_same_bits(shop, line):
    folder = "killed-" + "".join(letter for letter in line if letter.isalnum())
    before = len(shop.output())
    process = shop.spawn(*ASK, "--dir", folder)
    shop.wait(lambda: line in shop.output()[before:], line, timeout_s=200)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not (shop.folder / folder / OWN / "outcome.json").exists()
    log = shop.folder / folder / OWN / "search.jsonl"
    if log.exists():  # as a kill in the middle of a write leaves it
        with log.open("ab") as file:
            file.write(b'{"generation": 1, "wid')
    again = shop.run(*ASK, "--dir", folder)
    assert again.returncode == 0, again.stderr
    assert outcome(shop, folder) == outcome(shop, "whole")
    for job in ("serving", "online"):
        kept = [next((shop.folder / f / OWN / job).rglob("dense.safetensors")) for f in (folder, "whole")]
        assert kept[0].read_bytes() == kept[1].read_bytes()
        for name, table in tables_of(shop, folder, job).items():
            other = tables_of(shop, "whole", job)[name]
            for part, rows in table.published().items():
                for left, right in zip(rows.rows(), other.published()[part].rows(), strict=True):
                    np.testing.assert_array_equal(left, right)


def test_the_compact_tables_are_served_as_any_other(shop):
    job = shop.folder / "whole" / OWN / "serving.yaml"
    trained = shop.run("train", job, "--set", "store=lmdb://served")
    assert trained.returncode == 0, trained.stderr
    newest = Snapshots(shop.folder / "whole" / OWN / "serving" / "snapshots").newest()
    rows = {table["name"]: table["rows"] for table in outcome(shop, "whole")["tables"]}
    ids = np.arange(300)
    with Replica.open(f"lmdb://{shop.folder / 'served'}", model="shop") as replica:
        for name, count in rows.items():
            table = open_to_read(newest.path / "tables" / name)
            assert len(table) == count  # none came, none went
            np.testing.assert_array_equal(replica.lookup(name, ids), table.lookup(ids))
            assert replica.lookup(name, ids).shape == (300, 6)
        said = replica.predict([{"user": 1, "item": 2, "city": "c1"}, {"user": 10**9, "item": 3, "city": "c2"}])
        assert ((said.probabilities > 0) & (said.probabilities < 1)).all()


def test_the_online_job_admits_ids_and_prunes_rows_that_stay_small(shop):
    job = shop.folder / "whole" / OWN / "online.yaml"
    thresholds = {table.name: table.threshold for table in load_job(job).tables}
    assert thresholds == {t["name"]: t["threshold"] for t in outcome(shop, "whole")["tables"]} | {"city": None}
    before = len(tables_of(shop, "whole", "online")["user"])
    trained = shop.run("train", job, "--set", "store=lmdb://online", "--set", "tables.user.probation_s=200")
    assert trained.returncode == 0, trained.stderr
    newest = Snapshots(shop.folder / "whole" / OWN / "online" / "snapshots").newest()
    stats = open_to_read(newest.path / "tables" / "user").stats()
    assert stats.admitted > before  # those of the retraining, and new ones
    assert stats.pruned > 0
    compared = shop.run("inspect", "lmdb://online", "--model", "shop", "--against", job.parent / "online")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "0 missing, 0 stale, 0 zombie" in compared.stdout


def refusal(*words: object) -> str:
    with pytest.raises(MonolithError) as caught:
        asked("optembed", "shop.yaml", *words)
    return str(caught.value)


def test_what_cannot_be_is_refused_before_anything_is_read(here):
    least = smallest()
    assert 50 < least < 2_000
    assert f"the smallest possible is {least:,}" in refusal("--bytes", least - 1, "--dir", "none")
    given = refusal("--bytes", BYTES, "--dir", "none", "--set", "tables.user.width=2")
    assert "user.width: that is what is searched for" in given
    kinds = ("--set", "tables.user.kind=collisionless", "--set", "tables.item.kind=collisionless")
    assert "no table of kind optembed" in refusal("--bytes", BYTES, "--dir", "none", *kinds)
    assert not (here.folder / "none").exists()


def smallest() -> int:
    few = refusal("--bytes", 1, "--dir", "none")
    return int(few.partition("the smallest possible is ")[2].partition(", a row")[0].replace(",", ""))


def test_a_folder_of_another_job_or_search_is_refused_by_what_differs(here):
    given = ("--bytes", BYTES, "--until", CUT, "--dir", "whole", "--population", "4")
    assert "results of another generations" in refusal(*given, "--generations", "3")
    other = refusal(*given, "--generations", "2", "--set", "seed=3", "--alpha", "0.1")
    assert "results of another alpha, job" in other


def test_two_calls_in_one_folder_are_refused(here):
    with alone(here.folder / "whole", WRITES):
        assert "another `monolith optembed` is at work in whole" in refusal(*ASK[2:], "--dir", "whole")


def test_the_smallest_budget_keeps_a_row_of_one_column_in_each_table(here, capsys):
    least = smallest()
    assert asked("optembed", "shop.yaml", "--bytes", least, *ASK[4:], "--dir", "whole") == 0
    found = json.loads((here.folder / "whole" / f"bytes-{least}" / "outcome.json").read_bytes())
    assert [(t["rows"], t["width"]) for t in found["tables"]] == [(1, 1), (1, 1)]
    assert found["bytes"] == least
    assert "supernet epoch" not in capsys.readouterr().out  # the one that was trained before
