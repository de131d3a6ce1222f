"""The rows of a table as Parquet."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from monolith.cli import parser
from monolith.commands import export
from monolith.tables import Table, TableConfig
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots


def exported(tmp_path, ids):
    """The path of a file with the rows of a table of dim 3 that has ``ids``, and what it should hold."""
    table = Table(TableConfig(name="user", dim=3))
    table.observe(np.array(ids, np.int64))

    def fill(tables):
        (tables / "user").mkdir()
        table.save(tables / "user")

    manifest = Manifest(version=SNAPSHOT_VERSION, model="m", lineage="l", step=1, sequence=1, job={})
    snapshot, out = Snapshots(tmp_path / "snapshots").write(manifest, {"tables": fill}), tmp_path / "rows.parquet"
    options = parser().parse_args(["export", str(snapshot), "--table", "user", "--out", str(out)])
    assert options.run(options) == 0
    return out, table.rows()


def test_a_table_of_several_row_groups_is_written_whole(tmp_path, monkeypatch):
    """Offsets of one group have 31 bits: 2^31 values, 134 million rows of 16, would not fit into one."""
    monkeypatch.setattr(export, "PIECE_ROWS", 4, raising=False)
    out, (ids, values) = exported(tmp_path, range(-5, 5))
    assert pq.ParquetFile(out).num_row_groups == 3
    written = pq.read_table(out)
    assert written["id"].to_pylist() == ids.tolist()
    assert np.array_equal(np.array(written["values"].to_pylist(), np.float32), values)


def test_a_table_without_rows_is_a_file_without_rows(tmp_path):
    out, _ = exported(tmp_path, [])
    assert pq.read_table(out).num_rows == 0
