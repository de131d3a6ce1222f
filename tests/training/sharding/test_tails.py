"""Rows that absent ids share, where a table has several parts: refused gradients, and copies after a load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scenarios import borders

from monolith.config.optimizers import Adagrad
from monolith.errors import NonFiniteError
from monolith.tables import Table, TableConfig, absent, admission
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection
from monolith.training.embeddings import outputs_of
from monolith.training.sharding import ShardedCollection
from monolith.training.sharding.checkpoint import load_pieces, pieces
from monolith.training.sharding.division import divisions_of
from monolith.training.sharding.saved import SavedCollection
from monolith.training.sharding.simulated import SimulatedTransport, run_ranks

SAMPLES = 12
IDS = Bag(np.arange(SAMPLES, dtype=np.int64) % 7, np.ones(SAMPLES, np.int32))


def config(on_nonfinite: str) -> TableConfig:
    return TableConfig(
        name="t", dim=2, admission=admission.MinCount(count=2), absent=absent.HashedTail(rows=3),
        optimizer=Adagrad(lr=0.1), on_nonfinite=on_nonfinite,
    )  # fmt: skip


def gradients(bad: float) -> np.ndarray:
    """That of sample 6, whose id has no row, is bad."""
    grads = np.linspace(-1, 1, 2 * SAMPLES, dtype=np.float32).reshape(SAMPLES, 2)
    grads[6, 1] = bad
    return grads


def on_ranks(ranks: int, rule: str, folder: Path, bad: float) -> list[str]:
    """What each rank was told, by two steps."""
    table = config(rule)

    def work(transport: SimulatedTransport) -> str:
        collection = ShardedCollection([table], outputs_of([table]), transport, exact=True)
        start, stop = borders(SAMPLES, ranks)[transport.rank :][:2]
        told = ""
        for number in range(2):
            step = collection.forward([IDS.rows(start, stop)])
            try:
                step.apply_matrix(gradients(bad if number else 0.5)[start:stop])
            except NonFiniteError as error:
                told = str(error)
        collection.save(folder)
        return told

    return run_ranks(ranks, work)


@pytest.mark.parametrize("bad", [np.nan, 3e38])
@pytest.mark.parametrize("rule", ["skip_row", "clip", "raise"])
def test_a_bad_gradient_of_a_shared_row_does_on_ranks_what_it_does_in_one_process(
    rule: str, bad: float, tmp_path: Path
) -> None:
    one = {"t": Table(config(rule))}
    told = ""
    for number in range(2):
        step = Collection(one, outputs_of([config(rule)])).forward([IDS])
        try:
            step.apply_matrix(gradients(bad if number else 0.5))
        except NonFiniteError as error:
            told = str(error)
    expected = one["t"].save(tmp_path / "one").read_bytes()
    assert bool(told) == (rule == "raise")
    for ranks in (1, 3):
        said = on_ranks(ranks, rule, tmp_path / f"{ranks}", bad)
        assert all(bool(each) == bool(told) for each in said), said
        saved = SavedCollection(tmp_path / f"{ranks}", divisions_of([config(rule)], 1))
        folders = [tmp_path / f"{ranks}" / part.folder for part in saved.manifest.tables[0].parts]
        assert Table.open(folders).save(tmp_path / "again").read_bytes() == expected


def test_parts_that_are_read_have_all_shared_rows_of_all_files(tmp_path: Path) -> None:
    on_ranks(3, "raise", tmp_path, 0.5)
    table = config("raise")

    def work(transport: SimulatedTransport) -> list[np.ndarray]:
        collection = _opened(table, transport, tmp_path)
        collection.lookup([IDS])
        return [part.table.tail() for part in collection.parts]

    (tail,) = run_ranks(1, work)[0]
    for each in run_ranks(4, work):
        np.testing.assert_array_equal(each[0], tail)


def test_pieces_of_some_ranks_give_others_all_shared_rows(tmp_path: Path) -> None:
    on_ranks(3, "raise", tmp_path, 0.5)
    table = config("raise")
    saved = run_ranks(3, lambda transport: pieces(_opened(table, transport, tmp_path)))
    everyones = {name: data for each in saved for name, data in each.items()}
    tail = Table.open(sorted((tmp_path / "0000").glob("[0-9]*"))).tail()

    def work(transport: SimulatedTransport) -> np.ndarray:
        collection = ShardedCollection([table], outputs_of([table]), transport, exact=True)
        load_pieces(collection, everyones)
        collection.lookup([IDS])
        return collection.parts[0].table.tail()

    for each in run_ranks(2, work):
        np.testing.assert_array_equal(each, tail)


def _opened(table: TableConfig, transport: SimulatedTransport, folder: Path) -> ShardedCollection:
    return ShardedCollection([table], outputs_of([table]), transport, exact=True, folder=folder)
