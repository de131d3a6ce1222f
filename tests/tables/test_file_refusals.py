"""Table files with right checksums that no table can have written: each refused by name. The fuzzer's finds, kept."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.tables import Table

GOLDEN = Path(__file__).parent.parent / "golden" / "table.v2.bin"
Parts = Any  # of conftest


@pytest.fixture
def refused(parts_of, tmp_path):
    """The error's text for the golden file after ``change``; its checksums are right."""

    def read(change: Callable[[Parts], None], kind: type[Exception] = CorruptError) -> str:
        parts = parts_of(GOLDEN.read_bytes())
        change(parts)
        (tmp_path / "table.bin").write_bytes(parts.sealed())
        with pytest.raises(kind, match=r"table\.bin") as caught:
            Table.open(tmp_path)
        assert caught.type is kind
        return str(caught.value)

    return read


def header_with(**values: Any) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        header = json.loads(parts.header)
        for path, value in values.items():
            *way, last = path.split("__")
            at = header
            for key in way:
                at = at[key]
            at[last] = value
        parts.header = json.dumps(header).encode()

    return change


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sequence": 0}, "header's sequence is 0; allowed: 1 to 4294967295"),
        ({"sequence": 2**32}, "header's sequence is 4294967296"),
        ({"floor": 4}, "header's floor is 4; allowed: 0 to 3"),
        ({"clock_ms": 2**63 - 1}, "header's clock_ms is 9223372036854775807"),
        ({"sweep_cursor": 1024}, "header's sweep_cursor is 1024; allowed: 0 to 1023"),
        ({"sweep_offset": 2**22}, "header's sweep_offset is 4194304; allowed: 0 to 4194303"),
        ({"eviction_cursor": 2**32}, "header's eviction_cursor is 4294967296; allowed: 0 to 4294967295"),
        ({"steps": 2**64}, "header's steps is 18446744073709551616"),
        ({"state_floats": -1}, "header's state_floats is -1"),
        ({"statistics__admitted": -1}, "header's statistics.admitted is -1"),
        ({"config__dim": 65_537}, "config cannot be: table 'user': dim is 65537, allowed is 1 to 65536"),
        ({"config__seed": -1}, "config cannot be: table 'user': seed is -1"),
        ({"config__dim": 1, "state_floats": 6}, "6 words of optimizer state a row, the optimizer has 3"),
    ],
)
def test_counts_that_no_table_can_have_are_refused(refused, values, says):
    assert says in refused(header_with(**values))


@pytest.mark.parametrize(
    "values", [{"unknown": 1}, {"config__unknown": 1}, {"config__optimizer__kind": "lion"}, {"statistics__evicted_": 3}]
)
def test_what_this_build_does_not_know_is_of_another_version(refused, values):
    assert "this build does not know" in refused(header_with(**values), VersionError)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("marks", 0, "marks holds 0; allowed: 1 to 4"),
        ("marks", 5, "marks holds 5; allowed: 1 to 4"),
        ("counts", 0, "counts holds 0; allowed: 1 to"),
        ("tombstone_marks", 0, "tombstone_marks holds 0"),
    ],
)
def test_marks_and_counts_that_cannot_be_are_refused(refused, name, value, says):
    def change(parts: Parts) -> None:
        number = next(n for n in range(1024) if parts.place(n, name)[1])
        parts.put(number, name, 0, value)

    assert says in refused(change)


def test_id_that_is_there_twice_is_refused(refused):
    def change(parts: Parts) -> None:
        number = next(n for n in range(1024) if parts.counts[n][0] >= 2)
        parts.put(number, "ids", 1, parts.get(number, "ids", 0))

    assert "ids do not ascend" in refused(change)


@pytest.mark.parametrize(("name", "says"), [("counters", "is counted"), ("tombstones", "was removed")])
def test_id_with_a_row_is_neither_counted_nor_removed(refused, name, says):
    def change(parts: Parts) -> None:
        number = next(n for n in range(1024) if parts.counts[n][0] and parts.place(n, name)[1] == 1)
        parts.put(number, name, 0, parts.get(number, "ids", 0))

    assert f"has a row, yet {says}" in refused(change)


def test_buckets_in_each_others_place_are_refused(refused):
    def change(parts: Parts) -> None:
        a, b = [n for n in range(1024) if parts.counts[n][0]][:2]
        parts.counts[a], parts.counts[b] = parts.counts[b], parts.counts[a]
        parts.buckets[a], parts.buckets[b] = parts.buckets[b], parts.buckets[a]

    assert "which belongs into bucket" in refused(change)


@pytest.mark.parametrize("count", [10**6, 2**31, 2**32 - 1])
def test_size_that_lies_is_refused_before_memory_is_taken(refused, count):
    tracemalloc.start()
    try:
        refused(lambda parts: parts.counts[7].__setitem__(0, count))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_place_that_is_no_folder_is_a_config_error(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "table.bin").mkdir()
    for place in (tmp_path / "file", tmp_path):
        with pytest.raises(ConfigError, match="holds no saved table"):
            Table.open(place)


def test_header_that_is_no_text_is_refused(refused):
    def change(parts: Parts) -> None:
        parts.header = parts.header.replace(b"sweep_cursor", b"sweep\xdfcursor")

    assert "the header, from offset 16 on, is no JSON" in refused(change)
