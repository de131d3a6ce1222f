"""What `monolith inspect policy` foretells is what training then does, to the last count and byte."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import yaml
from policy_command import only, policy

from monolith.training.status import read_status

UNTRAINED = {"dropped_gradients", "nonfinite", "bytes_scratch"}  # what only training makes
PUBLISHED = {"tombstones", "bytes_tombstones"}  # what depends on when deltas left

# Other rules for the same job: (what the file would say, what the what-if is asked).
OTHER = {
    "user": (
        {"admission": {"kind": "probability", "p": 0.3}, "expiry": {"kind": "idle", "ttl_s": 600}},
        ["--admission", "probability:0.3", "--expiry", "idle:10m"],
    ),
    "item": (
        {"admission": {"kind": "min_count", "count": 3, "half_life_s": 900, "max_counters": 2048}},
        ["--admission", "min_count:{count: 3, half_life_s: 15m, max_counters: 2048}"],
    ),
    "tags": (
        {"admission": {"kind": "never"}, "expiry": {"kind": "idle", "ttl_s": 60}},
        ["--vary", "admission=never", "--vary", "expiry={kind: idle, ttl_s: 60}"],
    ),
}


def check_foretold(setting: dict[str, Any], trained: dict[str, int], *, tombstones: bool = False) -> None:
    """Every count and every byte of the what-if is the trained table's."""
    foretold = setting["stats"] | {f"bytes_{kind}": count for kind, count in setting["bytes_by_kind"].items()}
    left_out = UNTRAINED if tombstones else UNTRAINED | PUBLISHED
    assert {name: count for name, count in foretold.items() if name not in left_out} == {
        name: count for name, count in trained.items() if name not in left_out
    }
    assert setting["removed"] == removed(trained)


def removed(trained: dict[str, int]) -> int:
    return sum(count for name, count in trained.items() if name.startswith(("expired", "evicted")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, kit_class):
    """One log, trained by jobs that differ in their tables: `base`, `other` rules, and `grouped` features."""
    kit = kit_class(tmp_path_factory.mktemp("policy"))
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=3_000)
    base = kit.job("base", store=None)
    tables = yaml.safe_load(base.read_text())["tables"]
    other = kit.job("other", store=None, tables=[table | OTHER[table["name"]][0] for table in tables])
    both = {"name": "both", "features": ["user", "item"], "dim": 9} | OTHER["user"][0]
    grouped = kit.job("grouped", store=None, tables=[both, {"name": "tags", "dim": 9}], train={"sweep_rows": 40})
    for job in (base, other, grouped):
        done = kit.run("train", job)
        assert done.returncode == 0, done.stderr
    return kit


def tables_of(kit, name: str) -> dict[str, dict[str, int]]:
    return read_status(kit.folder / name / "state/status.json").tables


@pytest.mark.e2e
@pytest.mark.parametrize("table", ["user", "item", "tags"])
def test_it_foretells_the_trained_table_exactly(trained, table, capsys):
    found = policy(capsys, "--job", trained.folder / "base.yaml", "--table", table)
    assert found["events"] == found["samples"] == 3_000
    check_foretold(only(found), tables_of(trained, "base")[table])
    assert only(found)["stats"]["rejected" if table == "item" else "admitted"] > 0


@pytest.mark.e2e
@pytest.mark.parametrize("table", ["user", "item", "tags"])
def test_it_foretells_what_other_rules_would_have_done(trained, table, capsys):
    words = ["--job", trained.folder / "base.yaml", "--table", table, *OTHER[table][1]]
    changed = only(policy(capsys, *words))
    check_foretold(changed, tables_of(trained, "other")[table])
    before, after = tables_of(trained, "base")[table], tables_of(trained, "other")[table]
    assert (before["admitted"], removed(before)) != (after["admitted"], removed(after))


# Every kind of rule that the two jobs above leave out.
FULL = {
    "user": (
        {"eviction": {"kind": "lfu", "max_rows": 40, "half_life_s": 600}, "expiry": {"kind": "absolute", "ttl_s": 900}},
        ["--eviction", "lfu:{max_rows: 40, half_life_s: 10m}", "--expiry", "absolute:15m"],
    ),
    "item": (
        {"eviction": {"kind": "lru", "max_bytes": 9_000}, "admission": {"kind": "probability", "half_life_s": 60}},
        ["--eviction", "lru:{max_bytes: 9000}", "--admission", "probability:{half_life_s: 1m}"],
    ),
    "tags": (
        {"expiry": {"kind": "idle", "ttl_s": 600, "max_age_s": 1200}},
        ["--expiry", "idle:{ttl_s: 10m, max_age_s: 20m}"],
    ),
}


@pytest.fixture(scope="module")
def full(trained):
    """The same log, trained under `FULL`, and with rules of each feature's own."""
    tables = yaml.safe_load((trained.folder / "base.yaml").read_text())["tables"]
    rules = {
        "user": {"admission": {"kind": "min_count", "count": 3}},
        "item": {"expiry": {"kind": "idle", "ttl_s": 300}},
    }
    both = {"name": "both", "features": ["user", "item"], "dim": 9, "per_feature": rules}
    for job in (
        trained.job("full", store=None, tables=[table | FULL[table["name"]][0] for table in tables]),
        trained.job("apart", store=None, tables=[both, {"name": "tags", "dim": 9}]),
    ):
        done = trained.run("train", job)
        assert done.returncode == 0, done.stderr
    return trained


@pytest.mark.e2e
@pytest.mark.parametrize("table", ["user", "item", "tags"])
def test_it_foretells_eviction_and_expiry_by_age(full, table, capsys):
    words = ["--job", full.folder / "base.yaml", "--table", table, *FULL[table][1]]
    check_foretold(only(policy(capsys, *words)), tables_of(full, "full")[table])
    assert table == "tags" or tables_of(full, "full")[table]["evicted"] > 0


@pytest.mark.e2e
def test_it_foretells_the_rules_of_each_feature(full, capsys):
    found = only(policy(capsys, "--job", full.folder / "apart.yaml", "--table", "both"))
    check_foretold(found, tables_of(full, "apart")["both"])
    assert found["stats"]["rejected"] > 0
    assert found["stats"]["expired_idle"] > 0


@pytest.mark.e2e
def test_features_that_share_a_table_are_replayed_together(trained, capsys):
    found = policy(capsys, "--job", trained.folder / "grouped.yaml", "--table", "both")
    assert found["lookups"] == 6_000
    check_foretold(only(found), tables_of(trained, "grouped")["both"])
    assert only(found)["rows"] > only(found)["live_rows"]  # few rows are swept a step


@pytest.mark.e2e
def test_a_live_run_is_foretold_from_its_journal_with_its_tombstones(kit, capsys):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=1_500)
    job = kit.job("live", input={"follow": True}, train={"step_records": 23, "step_linger_s": 0.01})
    daemon = kit.spawn("train", job)
    status = kit.folder / "live/state/status.json"
    kit.wait(lambda: (s := read_status(status)) and s.lag == 0 and s.samples > 1_000, "the log to be read")
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=40, seed=6)
    kit.wait(lambda: read_status(status).lag == 0, "the rest to be read")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=30) == 0, kit.output()
    for table, stats in read_status(status).tables.items():
        found = policy(capsys, "--job", job, "--table", table, "--journal", kit.folder / "live/state/journal")
        check_foretold(only(found), stats, tombstones=True)
    assert sum(map(removed, read_status(status).tables.values())) > 10
