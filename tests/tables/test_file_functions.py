"""A saved table names its score function; what a file names is never imported."""

import sys

import numpy as np
import pytest

from monolith.errors import ConfigError
from monolith.tables import Table, TableConfig, TableFile, eviction


def oldest(rows: eviction.Rows) -> np.ndarray:
    return rows.last_seen_ms


@pytest.fixture
def naming(tmp_path, parts_of):
    """The folder of a file with three rows whose header names a function as its score."""

    def write(name: str) -> str:
        eviction.register("stand-in", oldest)
        table = Table(TableConfig(name="user", dim=2, eviction=eviction.Score("stand-in", max_rows=9)))
        table.observe(np.arange(3), event_time_ms=7)
        path = table.save(tmp_path / "saved")
        parts = parts_of(path.read_bytes())
        assert b'"stand-in"' in parts.header
        parts.header = parts.header.replace(b'"stand-in"', f'"{name}"'.encode())
        path.write_bytes(parts.sealed())
        return str(path.parent)

    return write


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that writes a file when it is imported, and that file."""
    sprung = tmp_path / "sprung"
    (tmp_path / "score_trap.py").write_text(f"open({str(sprung)!r}, 'w').close()\ndef score(rows): return rows.uses\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "score_trap", raising=False)
    yield sprung
    sys.modules.pop("score_trap", None)


@pytest.mark.parametrize("name", ["score_trap:score", "os:system", "score_trap:nothing", "score_trap"])
def test_opening_a_file_imports_nothing_that_it_names(naming, trap, name):
    folder = naming(name)
    with pytest.raises(ConfigError, match=rf"eviction\.function = '{name}', .*monolith\.tables\.eviction\.register"):
        Table.open(folder)
    with TableFile(folder) as file:
        assert file.config.eviction.function == name
    assert "score_trap" not in sys.modules
    assert not trap.exists()


@pytest.mark.parametrize("name", ["score_trap:score", "os:system", "nobody"])
def test_rows_are_read_without_the_function(naming, trap, name):
    table = Table.open_to_read(naming(name))
    assert table.rows()[0].tolist() == [0, 1, 2]
    assert (table.stats().admitted, table.clock_ms) == (3, 7)
    assert not trap.exists()


def test_registered_function_is_found_by_a_file(naming):
    eviction.register("known to files", oldest)
    table = Table.open(naming("known to files"))
    assert table.stats().row_limit == 9


def test_config_of_ones_own_may_import_and_files_find_the_function_from_then_on(naming, trap):
    folder = naming("score_trap:score")
    with TableFile(folder) as file:
        own = TableConfig(name="user", dim=2, eviction=file.config.eviction)
    assert Table.open(folder, own).stats().row_limit == 9
    assert trap.exists()
    assert Table.open(folder).stats().row_limit == 9


def test_lowered_limit_and_another_rule_need_no_function_of_the_file(naming, trap):
    table = Table.open(naming("score_trap:score"), TableConfig(name="user", dim=2, eviction=eviction.LRU(max_rows=2)))
    table.observe(np.arange(1), event_time_ms=8)
    assert len(table) == 2
    assert not trap.exists()
