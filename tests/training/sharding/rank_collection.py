"""What one rank does in the tests of divided collections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scenarios import Scenario, borders, gradient, scenarios

from monolith.config.table import TableConfig
from monolith.errors import MonolithError
from monolith.tables import optimizers
from monolith.tables.batch import Bag
from monolith.training.sharding import ShardedCollection, ShardedEmbeddingBagCollection


def every_scenario(rank: int, folder: Path) -> dict[str, Any]:
    """Each scenario's vectors of this rank, the numbers of all ranks; the tables are saved below ``folder``."""
    return {name: _run(scenario, rank, folder / name) for name, scenario in scenarios().items()}


def _run(scenario: Scenario, rank: int, folder: Path) -> dict[str, Any]:
    collection = ShardedCollection(scenario.tables, scenario.outputs, **scenario.options)
    vectors = []
    for number, step in enumerate(scenario.steps):
        bags, times, first = own_share(step.bags, step.times, rank, dist.get_world_size())
        asking = collection.ask(bags, times)
        asking.begin()
        begun = collection.forward(asking)
        vectors.append(begun.vectors.copy())
        begun.apply_matrix(gradient(begun.vectors, number, first, scenario.scale))
        if scenario.sweep:
            collection.sweep(scenario.sweep)
        collection.cut()
    read = collection.lookup(bags)
    collection.save(folder)
    return {"vectors": vectors, "read": read, "stats": collection.stats(), "sent": collection.transport.bytes_sent}


def own_share(bags: list[Bag], times: Any, rank: int, ranks: int) -> tuple[list[Bag], Any, int]:
    """This rank's samples of a global batch, and the number of the first."""
    start, stop = borders(len(bags[0]), ranks)[rank : rank + 2]
    return [bag.rows(start, stop) for bag in bags], times[start:stop] if isinstance(times, np.ndarray) else times, start


RESUMED = ("rules exact", "limits")


def go_on(rank: int, folder: Path) -> None:
    """Opens what is in ``from``, which any number of ranks saved, trains one step more, and saves to ``to``."""
    _go_on(rank, folder / "from", folder / "to", [int((folder / "step").read_text())])


def go_on_alone(rank: int, folder: Path) -> None:
    """Three steps more from ``from``, with a save after each."""
    for step in range(3):
        _go_on(rank, folder / (f"to{step - 1}" if step else "from"), folder / f"to{step}", [step])


def _go_on(rank: int, before: Path, after: Path, steps: list[int]) -> None:
    for name in RESUMED:
        scenario = scenarios()[name]
        collection = ShardedCollection(scenario.tables, scenario.outputs, folder=before / name, **scenario.options)
        for number in steps:
            step = scenario.steps[number]
            bags, times, first = own_share(step.bags, step.times, rank, dist.get_world_size())
            begun = collection.forward(bags, times)
            begun.apply_matrix(gradient(begun.vectors, 99 + number, first))
            collection.sweep(200)
            collection.cut()
        collection.save(after / name)


def refusals(rank: int, folder: Path) -> dict[str, str]:
    """What each rank is told where ranks disagree, or a gradient is no number."""
    table = TableConfig(name="a", dim=2, optimizer=optimizers.Adagrad(lr=0.1))
    said = {}
    for name, config, options in (
        ("optimizer", TableConfig(name="a", dim=2, optimizer=optimizers.Adagrad(lr=0.1 * (1 + rank))), {}),
        ("option", table, {"exact": rank == 1}),
    ):
        said[name] = _told(lambda config=config, options=options: _collection(config, **options))
    collection = _collection(table)
    bags = [Bag(np.arange(3, dtype=np.int64), np.ones(3, np.int32))]
    said["time"] = _told(lambda: collection.forward(bags, None if rank else 5))
    said["rows after time"] = collection.stats()["a"]["rows"]
    step = collection.forward(bags)
    bad = np.full((3, 2), np.nan if rank == 1 else 1.0, np.float32)
    said["nonfinite"] = _told(lambda: step.apply_matrix(bad))
    said["before"], said["after"] = step.vectors, collection.lookup(bags)
    step.apply_matrix(np.ones((3, 2), np.float32))
    said["twice"] = _told(lambda: step.apply_matrix(np.ones((3, 2), np.float32)))
    said["trained"] = collection.lookup(bags)
    return said


def _collection(table: TableConfig, **options: Any) -> ShardedCollection:
    from monolith.training.embeddings import outputs_of

    return ShardedCollection([table], outputs_of([table]), **options)


def _told(call: Any) -> str:
    try:
        call()
    except MonolithError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


MODULE_STEPS = 4


def module_tables() -> list[TableConfig]:
    return [
        TableConfig(name="user", dim=4, optimizer=optimizers.Adagrad(lr=0.1)),
        TableConfig(name="tags", dim=3, features=["tags", "seen"], pooling="mean", optimizer=optimizers.SGD(lr=0.1)),
    ]


def jagged(step: int, start: int, stop: int) -> Any:
    """Samples of a global batch of 24, weighted."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    rng = np.random.default_rng(step)
    values, lengths, weights = [], [], []
    for _ in range(3):
        own = rng.integers(0, 4, 24)
        ends = np.concatenate([[0], np.cumsum(own)])
        ids, weight = rng.integers(0, 50, ends[-1]), rng.random(ends[-1]).astype(np.float32)
        values.append(ids[ends[start] : ends[stop]])
        weights.append(weight[ends[start] : ends[stop]])
        lengths.append(own[start:stop])
    values, lengths, weights = (torch.from_numpy(np.concatenate(each)) for each in (values, lengths, weights))
    return KeyedJaggedTensor(keys=["user", "tags", "seen"], values=values, lengths=lengths.int(), weights=weights)


def module(rank: int, folder: Path) -> dict[str, Any]:
    """The torch module beside a dense part under DistributedDataParallel."""
    ranks = dist.get_world_size()
    ebc = ShardedEmbeddingBagCollection(module_tables(), exact=True)
    torch.manual_seed(0)
    over = torch.nn.Linear(10, 1)
    dense = torch.nn.parallel.DistributedDataParallel(over)
    train_module(ebc, dense, rank * 24 // ranks, (rank + 1) * 24 // ranks)
    ebc.eval()
    read = ebc(jagged(0, rank * 24 // ranks, (rank + 1) * 24 // ranks), 5)
    held = [float(over.weight.detach().sum()), ebc.collection.stats()["user"]["observed"]]
    bags = {name: Bag(np.arange(2, dtype=np.int64), np.ones(2, np.int32)) for name in ("user", "tags", "seen")}
    by_name = {name: vector.shape for name, vector in ebc.forward_bags(bags).items()}
    weighted = jagged(0, 0, 24)
    weighted.weights().requires_grad_()
    refused = _told(lambda: ebc(weighted))
    return {"read": read.values().numpy(), "keys": read.keys(), "held": held, "shapes": by_name, "refused": refused}


def train_module(ebc: Any, dense: Any, start: int, stop: int) -> None:
    """Steps on these samples of each global batch; the loss is their mean."""
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    for step in range(MODULE_STEPS):
        loss = (dense(ebc(jagged(step, start, stop), 5 + step).values()).squeeze(1) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
