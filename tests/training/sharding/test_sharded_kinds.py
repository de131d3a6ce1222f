"""Tables of every kind that can be divided, on ranks that are threads, held to one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from scenarios import Step, batches, borders, gradient

from monolith.errors import ConfigError, CorruptError
from monolith.tables import Table, TableConfig, admission, expiry, optimizers, saved, snapshot
from monolith.tables.buckets import ALL_BUCKETS
from monolith.tables.collection import Collection
from monolith.tables.embedding import Embedding
from monolith.tables.kinds import new_embedding
from monolith.training.embeddings import outputs_of
from monolith.training.sharding import ShardedCollection
from monolith.training.sharding.saved import SavedCollection
from monolith.training.sharding.simulated import SimulatedTransport, run_ranks

SAMPLES, STEPS = 40, 3
ADAGRAD = optimizers.Adagrad(lr=0.1)
TWO = ["one", "other"]
KINDS: dict[str, TableConfig] = {
    "hashed": TableConfig(name="t", dim=4, kind="hashed", rows=50, features=TWO, optimizer=ADAGRAD),
    "product": TableConfig(name="t", dim=4, kind="qr", rows=90, features=TWO, optimizer=optimizers.Adam(lr=0.01)),
    "sum": TableConfig(name="t", dim=4, kind="qr", rows=90, combine="sum", pooling="mean", optimizer=ADAGRAD),
    "concat": TableConfig(name="t", dim=4, kind="qr", rows=90, combine="concat", remainders=7, optimizer=ADAGRAD),
    "unified": TableConfig(name="t", dim=2, kind="unified", rows=60, features=TWO, probes={"other": 3}),
    "optembed": TableConfig(
        name="t", dim=5, kind="optembed", width=3, features=TWO, optimizer=ADAGRAD,
        admission=admission.MinCount(count=2), expiry=expiry.Idle(ttl_s=3600),
    ),
    "pruned": TableConfig(
        name="t", dim=5, kind="optembed", width=3, features=TWO, optimizer=ADAGRAD, threshold=0.05, probation_s=0.5
    ),
    "clipped": TableConfig(
        name="t", dim=4, kind="qr", rows=90, features=TWO, optimizer=optimizers.Adagrad(lr=0.1, clip_global_norm=0.1)
    ),
}  # fmt: skip


def tables_of(kind: str) -> list[TableConfig]:
    """Between two others, so that columns are not the first ones."""
    return [TableConfig(name="before", dim=3), KINDS[kind], TableConfig(name="after", dim=2, pooling="mean")]


def steps_of(kind: str) -> list[Step]:
    def times(step: int, rng: np.random.Generator) -> Any:
        return step * 1000 + rng.integers(0, 900, SAMPLES)

    return batches(tables_of(kind), steps=STEPS, samples=SAMPLES, ids=200, seed=3, weighted=True, times=times)


class Ran(NamedTuple):
    vectors: list[np.ndarray]
    read: np.ndarray
    rows: dict[str, tuple[np.ndarray, np.ndarray]]  # published name -> ids, values


def alone(kind: str) -> tuple[Ran, dict[str, Embedding]]:
    tables = tables_of(kind)
    made = {table.name: new_embedding(table) for table in tables}
    collection, vectors, steps = Collection(made, outputs_of(tables)), [], steps_of(kind)
    for number, step in enumerate(steps):
        begun = collection.forward(step.bags, step.times)
        vectors.append(begun.vectors.copy())
        begun.apply_matrix(gradient(begun.vectors, number, 0))
        for table in made.values():
            table.sweep(max_rows=2**40)
            table.cut()
    deltas = {name: delta for table in made.values() for name, delta in table.deltas(0).items()}
    return Ran(vectors, collection.lookup(steps[-1].bags), _sorted([deltas])), made


def on_ranks(kind: str, ranks: int, *, exact: bool, folder: Path | None = None, since: Path | None = None) -> Ran:
    """All steps; with ``since`` none, but what was saved there. Saved to ``folder`` at the end."""
    tables, steps = tables_of(kind), steps_of(kind)

    def work(transport: SimulatedTransport) -> tuple[list[np.ndarray], np.ndarray, Any]:
        collection = ShardedCollection(tables, outputs_of(tables), transport, exact=exact, folder=since)
        start, stop = borders(SAMPLES, transport.ranks)[transport.rank :][:2]
        own = [([bag.rows(start, stop) for bag in step.bags], step.times[start:stop]) for step in steps]
        vectors = []
        for number, (bags, times) in enumerate(own if since is None else []):
            begun = collection.forward(bags, times)
            vectors.append(begun.vectors.copy())
            begun.apply_matrix(gradient(begun.vectors, number, start))
            collection.sweep()
            collection.cut()
        read = collection.lookup(own[-1][0])
        if folder is not None:
            collection.save(folder)
        return vectors, read, collection.deltas(0)

    told = run_ranks(ranks, work)
    vectors = [np.concatenate(each) for each in zip(*(one[0] for one in told), strict=True)]
    return Ran(vectors, np.concatenate([one[1] for one in told]), _sorted([one[2] for one in told]))


def _sorted(deltas: list[Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for name in deltas[0]:
        ids = np.concatenate([each[name].ids for each in deltas])
        order = np.argsort(ids)
        found[name] = ids[order], np.concatenate([each[name].values for each in deltas])[order]
    return found


def _same(one: Ran, other: Ran, check: Callable[[np.ndarray, np.ndarray], None]) -> None:
    assert one.rows.keys() == other.rows.keys()
    for name, (ids, values) in one.rows.items():
        np.testing.assert_array_equal(ids, other.rows[name][0])
        check(values, other.rows[name][1])
    for mine, theirs in zip([*one.vectors, one.read], [*other.vectors, other.read], strict=True):
        check(mine, theirs)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_make_the_rows_and_vectors_of_one_process(kind: str, ranks: int, tmp_path: Path) -> None:
    one, tables = alone(kind)
    _same(one, on_ranks(kind, ranks, exact=True, folder=tmp_path), np.testing.assert_array_equal)
    _same(one, on_ranks(kind, ranks, exact=False), lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5))
    for name, files in files_of(tmp_path).items():
        table = Table.open(files)
        whole = snapshot.to_bytes(saved.header_of(table, ALL_BUCKETS), saved.exported(table, ALL_BUCKETS))
        assert whole == _bytes(tables, name), name


def files_of(folder: Path) -> dict[str, list[Path]]:
    """Those of each native table, by its name."""
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    return {table["name"]: [folder / part["folder"] for part in table["parts"]] for table in manifest["tables"]}


def _bytes(tables: dict[str, Embedding], name: str) -> bytes:
    natives = {part.config.name: part for table in tables.values() for part in getattr(table, "parts", {}).values()}
    table = natives.get(name) or tables[name]
    assert isinstance(table, Table)
    return snapshot.to_bytes(saved.header_of(table, ALL_BUCKETS), saved.exported(table, ALL_BUCKETS))


@pytest.mark.parametrize("kind", KINDS)
def test_what_some_ranks_saved_is_read_by_others(kind: str, tmp_path: Path) -> None:
    saved_by_two = on_ranks(kind, 2, exact=True, folder=tmp_path / "2")
    for before, ranks in ((2, 3), (3, 1)):
        again = on_ranks(kind, ranks, exact=True, folder=tmp_path / f"{ranks}", since=tmp_path / f"{before}")
        _same(saved_by_two._replace(vectors=[]), again, np.testing.assert_array_equal)


def test_a_saved_table_of_another_kind_or_other_numbers_is_refused(tmp_path: Path) -> None:
    on_ranks("sum", 2, exact=True, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"t\.quotient \(kind qr, rows 90, .* combine sum\), .* combine product\)"):
        on_ranks("product", 2, exact=True, since=tmp_path)


def test_a_part_that_lacks_rows_is_refused(tmp_path: Path) -> None:
    on_ranks("hashed", 1, exact=True, folder=tmp_path)
    collection = run_ranks(
        1, lambda transport: ShardedCollection(tables_of("hashed"), outputs_of(tables_of("hashed")), transport)
    )[0]
    native = next(part.division.native for part in collection.parts if part.number == 1)
    empty = Table(native.config)
    with pytest.raises(CorruptError, match=r"of 't' have 0 rows, 50 of 50 is right"):
        native.check(empty, tmp_path)
    assert SavedCollection(tmp_path, collection.divisions).manifest.tables[1].kind is not None


def test_torchrecs_data_parallel_model_takes_them_over_with_their_rows() -> None:
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from monolith.training import EmbeddingBagCollection
    from monolith.training.sharding import CollectionSharder

    tables = [msgspec.structs.replace(KINDS[kind], name=kind, features=[kind]) for kind in ("product", "concat")]
    tables.append(msgspec.structs.replace(KINDS["unified"], name="all"))

    def step(module: Any, time_ms: int) -> torch.Tensor:
        keys = ["product", "concat", *TWO]
        ids = KeyedJaggedTensor(keys=keys, values=torch.arange(20), lengths=torch.ones(20, dtype=torch.int32))
        vectors = module(ids, time_ms).values()
        vectors.square().sum().backward()
        return vectors.detach()

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        one, other = EmbeddingBagCollection(tables), EmbeddingBagCollection(tables)
        first = step(one, 5), step(other, 5)
        divided = DistributedModelParallel(other, sharders=[CollectionSharder()], device=torch.device("cpu"))
        assert torch.equal(*first)
        assert torch.equal(step(one, 6), step(divided, 6))
        divided.load_state_dict(divided.state_dict())
        assert torch.equal(step(one, 7), step(divided, 7))
    finally:
        dist.destroy_process_group()
