"""`monolith inspect` and `monolith export` read tables whose score function this process does not have."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from monolith.cli import main
from monolith.tables import Table, TableConfig, eviction
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a table with four rows, by a function of a module that is gone, and would say so if it were imported."""
    module = tmp_path / "gone_scores.py"
    module.write_text("def score(rows): return rows.uses\n")
    monkeypatch.syspath_prepend(tmp_path)
    rule = eviction.Score("gone_scores:score", max_rows=9)
    table = Table(TableConfig(name="user", dim=2, eviction=rule))
    table.observe(np.arange(4), event_time_ms=0)
    monkeypatch.delitem(sys.modules, "gone_scores")
    monkeypatch.delitem(eviction._functions, "gone_scores:score")
    module.write_text("raise SystemExit('imported')\n")
    manifest = Manifest(version=SNAPSHOT_VERSION, model="m", lineage="l", step=1, sequence=1, job={"name": "m"})

    def fill(folder: Path) -> None:
        table.save(folder / "user")

    return Snapshots(tmp_path / "state").write(manifest, {"tables": fill})


def code_of(*words: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    return ended.value.code


def test_inspect_tells_of_a_table_without_its_score_function(snapshot, capsys):
    assert code_of("inspect", snapshot) == 0
    assert "table user: 4 rows of dim 2" in capsys.readouterr().out


def test_export_writes_a_table_without_its_score_function(snapshot, tmp_path):
    assert code_of("export", snapshot, "--table", "user", "--out", tmp_path / "rows.parquet") == 0
    assert pq.read_table(tmp_path / "rows.parquet")["id"].to_pylist() == [0, 1, 2, 3]
