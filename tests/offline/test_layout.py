"""Tables at a number of bytes."""

from __future__ import annotations

import pytest

from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.offline.layout import laid_out, num_bytes

BASE = [TableConfig(name=name, dim=8) for name in ("user", "item", "hour")]
VALUES = {"user": 6000, "item": 3000, "hour": 24}


@pytest.mark.parametrize("kind", ["hashed", "hashed-sqrt", "hashed-equal", "qr", "cafe", "unified"])
@pytest.mark.parametrize("budget", [20_000, 200_000])
def test_tables_take_what_they_may_and_no_more(kind: str, budget: int):
    tables = laid_out(kind, BASE, VALUES, budget)
    taken = num_bytes(tables)
    assert taken <= budget
    assert taken > 0.9 * budget or kind == "qr"
    assert {table.kind for table in tables} == {kind.partition("-")[0]}


def test_features_get_rows_in_proportion_to_their_values():
    rows = {table.name: table.rows for table in laid_out("hashed", BASE, VALUES, 100_000)}
    assert rows["user"] == pytest.approx(2 * rows["item"], abs=2)
    assert rows["hour"] < 12


def test_hashed_rows_are_divided_by_roots_or_equally_up_to_what_a_feature_can_use():
    by_root = {table.name: table.rows for table in laid_out("hashed-sqrt", BASE, VALUES, 100_000)}
    assert by_root["user"] == pytest.approx(2**0.5 * by_root["item"], abs=2)
    assert by_root["hour"] == pytest.approx(by_root["user"] / 250**0.5, abs=1)
    equal = {table.name: table.rows for table in laid_out("hashed-equal", BASE, VALUES, 100_000)}
    assert equal["user"] == equal["item"]
    assert equal["hour"] == 16 * 24
    assert num_bytes(laid_out("hashed-equal", BASE, VALUES, 100_000)) > 99_000  # others have what it cannot use


def test_more_bytes_are_more_rows():
    rows = [laid_out("hashed", BASE, VALUES, budget)[0].rows for budget in (10_000, 40_000, 160_000, 640_000)]
    assert rows == sorted(set(rows))


def test_an_impossible_number_of_bytes_is_refused_with_the_smallest_possible():
    least = num_bytes([TableConfig(name=one.name, dim=8, kind="hashed", rows=1) for one in BASE])
    with pytest.raises(ConfigError, match=f"10 bytes are too few for 3 tables of kind hashed: .* possible are {least}"):
        laid_out("hashed", BASE, VALUES, 10)
    assert laid_out("hashed", BASE, VALUES, least)[0].rows == 1


def test_an_unknown_kind_is_refused_with_those_that_are_known():
    with pytest.raises(
        ConfigError,
        match="no kind 'bloom' in this benchmark; allowed: collisionless, hashed, hashed-sqrt, hashed-equal, qr",
    ):
        laid_out("bloom", BASE, VALUES, 1000)


def test_a_unified_table_has_all_features_and_probes_by_their_values():
    (table,) = laid_out("unified", BASE, VALUES, 100_000)
    assert table.feature_names() == ["user", "item", "hour"]
    assert table.probes == {"user": 2, "item": 2, "hour": 1}


def test_weights_that_are_added_up_are_not_unified():
    weights = [TableConfig(name=f"{one.name}.weight", features=[one.name], dim=1) for one in BASE]
    tables = laid_out("unified", [*BASE, *weights], VALUES, 200_000)
    assert [table.kind for table in tables] == ["unified", "hashed", "hashed", "hashed"]
    assert num_bytes(tables) <= 200_000
