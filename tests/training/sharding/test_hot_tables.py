"""``kind: cafe`` on ranks that are threads, held to one process: who is hot, whose rows, and what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scenarios import Step, batches, borders, gradient

from monolith.errors import ConfigError, CorruptError
from monolith.tables import Table, TableConfig, optimizers, saved, snapshot
from monolith.tables.buckets import ALL_BUCKETS
from monolith.tables.cafe import CafeTable
from monolith.tables.collection import Collection
from monolith.tables.delta import Delta, joined
from monolith.tables.kinds import new_embedding
from monolith.tables.split import buckets_of
from monolith.tables.tail import tail_numbers
from monolith.training.embeddings import outputs_of
from monolith.training.sharding import ShardedCollection
from monolith.training.sharding.hot_tables import agree
from monolith.training.sharding.simulated import SimulatedTransport, run_ranks

SAMPLES, STEPS, HALF = 20, 100, 60  # rows change hands in steps 32, 64 and 96
TABLES = [
    TableConfig(name="before", dim=3),
    TableConfig(
        name="hot", dim=4, kind="cafe", rows=30, own_rows=25, score_decay=0.9, features=["one", "other"],
        optimizer=optimizers.Adagrad(lr=0.1),
    ),
    TableConfig(name="mean", dim=2, kind="cafe", rows=9, own_rows=6, pooling="mean", storage="bfloat16"),
]  # fmt: skip
HOT = ("hot", "mean")


def steps() -> list[Step]:
    """What is hot drifts."""
    made = batches(TABLES, steps=STEPS, samples=SAMPLES, ids=60, seed=2, weighted=True)
    for number, step in enumerate(made):
        for bag in step.bags:
            bag.ids[:] += 20 * (number // 30)
    return made


class Ran(NamedTuple):
    vectors: list[np.ndarray]
    kept: list[bytes]
    files: list[bytes]
    deltas: list[dict[str, Delta]]


def alone(begin: int = 0, end: int = STEPS) -> Ran:
    made = {table.name: new_embedding(table) for table in TABLES}
    collection, vectors, deltas = Collection(made, outputs_of(TABLES)), [], []
    for number, step in enumerate(steps()[begin:end], begin):
        begun = collection.forward(step.bags, number)
        vectors.append(begun.vectors.copy())
        begun.apply_matrix(gradient(begun.vectors, number, 0))
        if number % 7 == 0:
            cut = max(table.cut() for table in made.values())
            deltas.append({name: made[name].deltas(cut - 1 if cut % 3 else 0)[name] for name in HOT})
    hot = [made[name] for name in HOT]
    assert all(isinstance(table, CafeTable) for table in hot)
    return Ran(vectors, [table.kept() for table in hot], [_bytes(table.one_table) for table in hot], deltas)


def on_ranks(ranks: int, folder: Path, begin: int = 0, end: int = STEPS, *, exact: bool = True) -> Ran:
    """Steps ``begin`` to ``end``; the ids of each are sent while the one before is under way."""

    def work(transport: SimulatedTransport) -> Any:
        since = folder / f"{begin}" if begin else None
        collection = ShardedCollection(TABLES, outputs_of(TABLES), transport, exact=exact, folder=since)
        start, stop = borders(SAMPLES, ranks)[transport.rank :][:2]
        bags = [[bag.rows(start, stop) for bag in step.bags] for step in steps()]
        vectors, deltas, asking = [], [], collection.ask(bags[begin], begin)
        for number in range(begin, end):
            begun = collection.forward(asking)
            if number + 1 < end:
                asking = collection.ask(bags[number + 1], number + 1)
                asking.begin()
            vectors.append(begun.vectors.copy())
            begun.apply_matrix(gradient(begun.vectors, number, start))
            if number % 7 == 0:
                cut = collection.cut()
                deltas.append(collection.deltas(cut - 1 if cut % 3 else 0))
        collection.save(folder / f"{end}")
        return vectors, deltas, [hot.index.kept() for hot in collection.hot_tables]

    told = run_ranks(ranks, work)
    assert all(one[2] == told[0][2] for one in told)  # every rank has the whole index
    published = zip(*(one[1] for one in told), strict=True)
    deltas = [{name: joined([each[name] for each in of_ranks]) for name in HOT} for of_ranks in published]
    vectors = [np.concatenate(each) for each in zip(*(one[0] for one in told), strict=True)]
    return Ran(vectors, told[0][2], [_whole(folder / f"{end}" / f"{n:04d}") for n in (1, 2)], deltas)


def _whole(folder: Path) -> bytes:
    return _bytes(Table.open(sorted(folder.glob("[0-9]*"))))


def _bytes(table: Table | None) -> bytes:
    assert table is not None
    return snapshot.to_bytes(saved.header_of(table, ALL_BUCKETS), saved.exported(table, ALL_BUCKETS))


@pytest.fixture(scope="module")
def one() -> Ran:
    ran = alone()
    assert sum(len(delta["hot"].removed) for delta in ran.deltas) > 5  # rows did change hands
    return ran


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_give_rows_to_the_ids_to_which_one_process_gives_them(one: Ran, ranks: int, tmp_path: Path) -> None:
    ran = on_ranks(ranks, tmp_path)
    assert ran.kept == one.kept
    for mine, theirs in zip(ran.vectors, one.vectors, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert ran.files == one.files


def test_ranks_publish_what_one_process_publishes(one: Ran, tmp_path: Path) -> None:
    for mine, theirs in zip(on_ranks(3, tmp_path).deltas, one.deltas, strict=True):
        for name in HOT:
            for own, other in ((mine[name], theirs[name]), (mine[name].tail, theirs[name].tail)):
                for field in ("base_sequence", "sequence", "ids", "values", "removed"):
                    np.testing.assert_array_equal(getattr(own, field), getattr(other, field))


def test_what_some_ranks_saved_goes_on_on_others(one: Ran, tmp_path: Path) -> None:
    for begin, end, ranks in ((0, 30, 1), (30, 50, 2), (50, 75, 4), (75, STEPS, 3)):
        ran = on_ranks(ranks, tmp_path, begin, end)
    assert ran.kept == one.kept
    assert ran.files == one.files


def test_one_rank_makes_one_process_bits_without_exact_sums_too(one: Ran, tmp_path: Path) -> None:
    ran = on_ranks(1, tmp_path, exact=False)
    assert (ran.kept, ran.files) == (one.kept, one.files)


def test_a_saved_collection_without_its_scores_is_refused(tmp_path: Path) -> None:
    on_ranks(2, tmp_path, 0, 5)
    (tmp_path / "5" / "0001" / "kept.bin").unlink()
    with pytest.raises(CorruptError, match=r"kept\.bin is missing or damaged"):
        on_ranks(2, tmp_path, 5, 6)


def test_torchrecs_pipelines_refuse_rows_that_change_hands() -> None:
    from monolith.training import EmbeddingBagCollection
    from monolith.training.sharding.sharder import ShardedBags

    with pytest.raises(ConfigError, match=r"tables \['hot', 'mean'\] are cafe, .* TorchRec's pipelines send ids ahead"):
        ShardedBags(EmbeddingBagCollection(TABLES), None)


@pytest.mark.parametrize("unwritten", [False, True])
def test_ids_whose_rows_are_older_than_they_start_again_from_the_row_that_they_share(
    unwritten: bool, tmp_path: Path
) -> None:
    """Of two ranks one has rows from before rows changed hands, or stopped before it wrote those that did."""
    on_ranks(2, tmp_path, 0, 50)
    on_ranks(2, tmp_path, 50, 70)

    def work(transport: SimulatedTransport) -> Any:
        collection = ShardedCollection(TABLES, outputs_of(TABLES), transport, exact=True, folder=tmp_path / "70")
        older = ShardedCollection(TABLES, outputs_of(TABLES), transport, exact=True, folder=tmp_path / "50")
        hot, old = collection.hot_tables[0], older.hot_tables[0]
        ids, numbers = hot.index.own_ids()
        had = dict(zip(*old.index.own_ids(), strict=True))
        came = np.array([had.get(one) != number for one, number in zip(ids, numbers, strict=True)])
        if transport.rank == 1:
            collection.replace_parts([part.table for part in older.parts])
            if unwritten:
                hot.unwritten = numbers[came]
            else:
                hot.take_left(old.left(), "rank 1")
        kept = hot.index.kept()
        rows = collection.parts[1].table
        before = rows.lookup(numbers)
        agree(transport, collection.hot_tables, collection.parts)
        return kept, hot.index.kept(), ids, numbers, came, rows.buckets, before, rows.lookup(numbers), rows

    left, right = run_ranks(2, work)
    ids, numbers, came = right[2:5]
    assert left[1] == right[1] == left[0]  # the newest
    old = right[5].mask()[buckets_of(numbers)] & came
    assert old.any()
    assert not old.all()
    shared = tail_numbers(ids, 30)
    expected = sum(each[8].lookup(shared) for each in (left, right))  # the row is at one of them, the other reads zeros
    np.testing.assert_array_equal(right[7][old], expected[old])
    np.testing.assert_array_equal(right[7][~old], right[6][~old])
    np.testing.assert_array_equal(left[7], left[6])
