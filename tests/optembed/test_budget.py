"""Bytes of a table that is still to be made are those it then has, and the rows that are kept fit."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.config import TableConfig
from monolith.config.absent import HashedTail
from monolith.config.optimizers import Adagrad, Adam
from monolith.errors import InputError
from monolith.optembed.budget import Cuts, check_bytes, compact, kept, smallest, table_bytes
from monolith.optembed.retrain import _filled


def table(name: str = "item", **settings: object) -> TableConfig:
    return TableConfig(name=name, dim=16, kind="optembed", **settings)


@pytest.mark.parametrize("settings", [{}, {"storage": "bfloat16"}, {"optimizer": Adam(), "absent": HashedTail(rows=5)}])
@pytest.mark.parametrize("width", [1, 2, 7, 16])
@pytest.mark.parametrize("rows", [1, 100, 20_000])
def test_bytes_are_foretold_exactly(settings, width, rows):
    config = table(**settings)
    made = _filled(compact(config, width), np.arange(rows) * 7919 - 5)
    assert len(made) == rows
    assert table_bytes(config, width, rows) == made.num_bytes()


def test_a_filled_table_has_the_first_values_of_the_wide_one_and_admits_no_other_id():
    from monolith.tables.kinds import new_embedding

    ids = np.array([5, -3, 2**61])
    config = table(optimizer=Adagrad(), absent=HashedTail(rows=2), seed=4)
    whole = new_embedding(table(optimizer=Adagrad(), seed=4))
    whole.begin(ids)
    narrow = _filled(compact(config, 3), ids)
    np.testing.assert_array_equal(narrow.lookup(ids)[:, :3], whole.lookup(ids)[:, :3])
    narrow.begin(np.array([77]), event_time_ms=10**9)
    assert len(narrow) == 3


def cuts(max_bytes: int, count: int = 3_000) -> tuple[list[TableConfig], dict[str, np.ndarray], Cuts]:
    rng = np.random.default_rng(2)
    tables = [table("user"), table("item")]
    scores = {"user": rng.normal(0.1, 0.1, count), "item": rng.normal(0.3, 0.2, count // 2)}
    return tables, scores, Cuts(tables, scores, max_bytes)


@pytest.mark.parametrize("widths", [(16, 16), (4, 9), (1, 1)])
def test_the_lowest_cut_that_fits_is_found(widths):
    _, scores, given = cuts(100_000)
    cut = given.lowest(widths)
    rows = given.rows(cut)
    assert {name: int(kept(each, cut).sum()) for name, each in scores.items()} == rows
    assert given.bytes_of(widths, rows) <= 100_000
    if cut > 0:  # one row more would be too many
        lower = max(s for each in scores.values() for s in each if s < cut) if cut > 0 else 0.0
        assert given.bytes_of(widths, given.rows(np.nextafter(lower, -1))) > 100_000


def test_rows_that_thresholds_mask_are_left_out_whatever_fits():
    _, scores, given = cuts(10**9)
    assert given.lowest((16, 16)) == 0.0
    assert given.rows(0.0) == {name: int((each > 0).sum()) for name, each in scores.items()}


def test_widths_with_which_no_row_fits_have_no_cut():
    tables, _, _ = cuts(0)
    least = smallest(tables)
    _, _, given = cuts(least)
    assert given.rows(given.lowest((1, 1))) == {"user": 1, "item": 1}
    assert given.lowest((16, 16)) is None


def test_too_few_bytes_are_refused_with_the_smallest_possible_number():
    tables, _, _ = cuts(0)
    least = smallest(tables)
    check_bytes(tables, least)
    with pytest.raises(InputError, match=f"the smallest possible is {least:,}"):
        check_bytes(tables, least - 1)
