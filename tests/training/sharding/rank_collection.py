"""What one rank does in the tests of divided collections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from scenarios import Scenario, borders, gradient, scenarios

from monolith.config.table import TableConfig
from monolith.errors import MonolithError
from monolith.tables import optimizers
from monolith.tables.batch import Bag
from monolith.training.sharding import ShardedCollection


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


def go_on(rank: int, folder: Path) -> dict[str, Any]:
    """Opens what other numbers of ranks saved, trains on, and saves."""
    result = {}
    for name in ("rules exact", "limits"):
        scenario = scenarios()[name]
        collection = ShardedCollection(
            scenario.tables, scenario.outputs, folder=folder / "from" / name, **scenario.options
        )
        step = scenario.steps[0]
        bags, times, first = own_share(step.bags, step.times, rank, dist.get_world_size())
        begun = collection.forward(bags, times)
        begun.apply_matrix(gradient(begun.vectors, 99, first))
        collection.cut()
        collection.save(folder / "to" / name)
        result[name] = collection.stats()
    return result


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
