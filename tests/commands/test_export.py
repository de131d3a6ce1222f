"""The rows of a table in a file of each kind."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from monolith.cli import main, parser
from monolith.commands import export
from monolith.commands.table_files import SUFFIXES, table_file
from monolith.errors import ConfigError, UnavailableError
from monolith.tables import Table, TableConfig
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots


def exported(tmp_path, ids, name="rows.parquet"):
    """The path of a file with the rows of a table of dim 3 that has ``ids``, and what it should hold."""
    table = Table(TableConfig(name="user", dim=3))
    table.observe(np.array(ids, np.int64))

    def fill(tables):
        (tables / "user").mkdir()
        table.save(tables / "user")

    manifest = Manifest(version=SNAPSHOT_VERSION, model="m", lineage="l", step=1, sequence=1, job={})
    snapshot, out = Snapshots(tmp_path / "snapshots").write(manifest, {"tables": fill}), tmp_path / name
    options = parser().parse_args(["export", str(snapshot), "--table", "user", "--out", str(out)])
    assert options.run(options) == 0
    return out, table.rows()


def read_parquet(path):
    rows = pq.read_table(path)
    return np.array(rows["id"]), np.array(rows["values"].to_pylist(), np.float32)


def read_csv(path):
    header, *rows = csv.reader(path.open())
    assert header == ["id", "v0", "v1", "v2"]
    return np.array([int(row[0]) for row in rows]), np.array([row[1:] for row in rows], np.float32)


def read_json_lines(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return np.array([row["id"] for row in rows]), np.array([row["values"] for row in rows], np.float32)


def read_npz(path):
    arrays = np.load(path)
    return arrays["ids"], arrays["values"]


def read_npy(path):
    rows = np.load(path)
    return rows["id"], rows["values"]


def read_safetensors(path):
    tensors = load_file(path)
    return tensors["ids"], tensors["values"]


READERS = {
    "parquet": read_parquet,
    "csv": read_csv,
    "jsonl": read_json_lines,
    "npz": read_npz,
    "npy": read_npy,
    "safetensors": read_safetensors,
}


def test_each_suffix_that_is_offered_has_a_reader_here():
    assert {f".{suffix}" for suffix in READERS} == set(SUFFIXES)


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_of_each_kind_holds_ids_and_values_bit_for_bit(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(export, "PIECE_ROWS", 4)
    out, (ids, values) = exported(tmp_path, [*range(-5, 5), -(2**63), 2**63 - 1], f"rows.{suffix}")
    read_ids, read_values = READERS[suffix](out)
    assert read_ids.tolist() == ids.tolist()
    assert read_values.tobytes() == values.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"rows.{suffix}", "snapshots"]


@pytest.mark.parametrize("suffix", READERS)
def test_a_table_without_rows_is_a_file_without_rows(tmp_path, suffix):
    out, _ = exported(tmp_path, [], f"rows.{suffix}")
    assert len(READERS[suffix](out)[0]) == 0


def test_a_table_of_several_row_groups_is_written_whole(tmp_path, monkeypatch):
    """Offsets of one group have 31 bits: 2^31 values, 134 million rows of 16, would not fit into one."""
    monkeypatch.setattr(export, "PIECE_ROWS", 4)
    out, _ = exported(tmp_path, range(-5, 5))
    assert pq.ParquetFile(out).num_row_groups == 3


@pytest.mark.parametrize("suffix", READERS)
def test_what_ids_are_called_stands_beside_them_where_the_file_has_room(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    names = ['a "quoted", name', None]
    with table_file(path, 1, texts=True) as file:
        file.write(np.array([1, 2]), np.array([[0.5], [np.nan]], np.float32), names)
    if suffix == "parquet":
        assert pq.read_table(path)["value"].to_pylist() == names
    elif suffix == "csv":
        assert list(csv.reader(path.open())) == [["id", "value", "v0"], ["1", names[0], "0.5"], ["2", "", "nan"]]
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[0] == {"id": 1, "value": names[0], "values": [0.5]}
        assert rows[1] == {"id": 2, "value": None, "values": [None]}
    elif suffix == "npz":
        assert np.load(path)["texts"].tolist() == [names[0], ""]
    else:
        assert not file.texts


def test_a_row_that_a_scan_gives_twice_is_written_once():
    chunks = [(np.array([1, 2]), np.ones((2, 1), np.float32)), (np.array([2, 3]), np.full((2, 1), 5, np.float32))]
    ids, values = (np.concatenate(parts) for parts in zip(*export._once(chunks), strict=True))
    assert ids.tolist() == [1, 2, 3]
    assert values.ravel().tolist() == [1, 1, 5]


@pytest.mark.parametrize("name", ["rows.xlsx", "rows"])
def test_a_suffix_that_names_no_kind_is_refused_with_those_that_do(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path), "--table", "user", "--out", str(tmp_path / name)])
    assert ended.value.code == 1
    assert "allowed are .parquet, .csv, .jsonl, .npz, .npy, .safetensors" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def write_half(path):
    with table_file(path, 1, texts=False) as file:
        file.write(np.array([1]), np.ones((1, 1), np.float32), None)
        raise RuntimeError("the store went away")


@pytest.mark.parametrize("suffix", READERS)
def test_a_write_that_fails_leaves_the_file_of_before(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="the store went away"):
        write_half(path)
    assert [path.read_text(), len(list(tmp_path.iterdir()))] == ["before", 1]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(UnavailableError, match=r"cannot write .*nowhere/rows.csv"),
        table_file(tmp_path / "nowhere/rows.csv", 1, texts=False),
    ):
        pass


def test_a_stream_is_no_source_of_rows(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "log://x", "--table", "user", "--out", str(tmp_path / "a.csv")])
    assert "ConfigError: log://x is no store" in capsys.readouterr().err


def test_a_library_that_is_missing_is_named_with_the_kinds_that_need_none(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with (
        pytest.raises(
            ConfigError, match=r"\.parquet files: pyarrow is not installed.*stream.*\.csv, \.jsonl and \.npz"
        ),
        table_file(tmp_path / "a.parquet", 1, texts=False),
    ):
        pass
