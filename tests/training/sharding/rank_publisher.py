"""What one rank does in the tests of publishing from several: it trains a scenario and publishes after every step."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from rank_collection import own_share
from safetensors.numpy import save
from scenarios import gradient, scenarios

from monolith.card import ModelCard
from monolith.errors import GapError, InputError
from monolith.serving.store import open_store
from monolith.tables.delta import Delta, ModelDelta
from monolith.tables.vectors import published_dims
from monolith.training.sharding import ShardedCollection, ShardedPublisher

SCENARIO = "rules exact"
MODEL = "demo"


def card() -> ModelCard:
    return ModelCard(model=MODEL, lineage="run-1", tables=published_dims(scenarios()[SCENARIO].tables), features=[])


class Chain:
    """The history of a run that is made again from its start: all of it is expected."""

    sequence, reach = 0, 99

    def digest(self, sequence: int) -> str | None:
        return f"{sequence:032x}" if sequence <= self.sequence else None


def delta_of(tables: dict[str, Delta], since: int, sequence: int, *, dense: bool = True) -> ModelDelta:
    """The model's delta, with all that belongs to one sequence."""
    weights = save({"bias": np.array([sequence], np.float32)}) if dense else b"not to be read"
    return ModelDelta(since, sequence, 10 * sequence, 100 * sequence, tables, weights, digest=f"{sequence:032x}")


class Job:
    """One rank of a job that publishes to several stores."""

    def __init__(self, rank: int, urls: list[str]) -> None:
        self.rank, self.scenario, self.chain = rank, scenarios()[SCENARIO], Chain()
        self.collection = ShardedCollection(self.scenario.tables, self.scenario.outputs, **self.scenario.options)
        stores = [open_store(url, MODEL) for url in urls]
        self.publishers = [ShardedPublisher(self.collection.transport, store) for store in stores]
        for publisher in self.publishers:
            publisher.start(card(), b"graph", self.chain)

    def step(self, number: int) -> None:
        step = self.scenario.steps[number]
        bags, times, first = own_share(step.bags, step.times, self.rank, dist.get_world_size())
        begun = self.collection.forward(bags, times)
        begun.apply_matrix(gradient(begun.vectors, number, first, self.scenario.scale))
        self.collection.sweep(self.scenario.sweep)
        self.chain.sequence = self.collection.cut()

    def part(self, since: int) -> ModelDelta:
        return delta_of(self.collection.deltas(since), since, self.chain.sequence, dense=self.rank == 0)

    def publish(self) -> list[tuple[str, int]]:
        found = [publisher.publish(self.chain.sequence, self.part) for publisher in self.publishers]
        return [(each.outcome, each.held_sequence) for each in found]

    def close(self) -> None:
        for publisher in self.publishers:
            publisher.close()


def every_step(rank: int, folder: Path) -> dict[str, Any]:
    """Publish every step, but for the fifth, so that a wider delta follows; what became of each."""
    job = Job(rank, (folder / "urls").read_text().split())
    outcomes = []
    for number in range(len(job.scenario.steps)):
        job.step(number)
        if number != 4:
            outcomes.append(job.publish())
    told = {
        "outcomes": outcomes,
        "known": job.publish(),
        "lacks": [publisher.lacks(job.chain.sequence) for publisher in job.publishers],
        "drained": [publisher.drain(1.0) for publisher in job.publishers],
        "generations": [publisher.generation for publisher in job.publishers],
    }
    job.close()
    return told


def killed_between_stage_and_commit(rank: int, folder: Path) -> list[Any]:
    """As `every_step`, of one store; the last rank kills itself once it staged the sequence in the file ``dies_at``."""
    job = Job(rank, (folder / "urls").read_text().split())
    dies_at = int((folder / "dies_at").read_text())
    store, stage = job.publishers[0]._store, job.publishers[0]._store.stage

    def last(ticket: Any, *rest: Any) -> Any:
        receipt = stage(ticket, *rest)
        if rank == dist.get_world_size() - 1 and ticket.sequence == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return receipt

    store.stage = last
    outcomes = []
    for number in range(len(job.scenario.steps)):
        job.step(number)
        outcomes.append(job.publish())
    job.close()
    return outcomes


def refusals(rank: int, folder: Path) -> dict[str, Any]:
    """What all ranks see where one of them cannot give its part."""
    job = Job(rank, (folder / "urls").read_text().split())
    (publisher,) = job.publishers
    job.step(0)
    job.publish()
    last = dist.get_world_size() - 1
    told: dict[str, Any] = {}

    def forgetful(since: int) -> ModelDelta:
        if rank == last and since:
            raise GapError("what was removed is forgotten")
        return job.part(since)

    job.step(1)
    told["gap"] = publisher.publish(job.chain.sequence, forgetful).outcome

    def strange(since: int) -> ModelDelta:
        part = job.part(since)
        return part if rank != last else replace(part, tables={})

    job.step(2)
    try:
        publisher.publish(job.chain.sequence, strange)
    except InputError as error:
        told["input"] = str(error)
    told["held"] = publisher.held_sequence
    told["after"] = job.publish()
    if rank == 0:
        open_store((folder / "urls").read_text().split()[0], MODEL).take_over(card())
    job.step(3)
    try:
        job.publish()
    except Exception as error:
        told["fenced"] = (type(error).__name__, str(error))
    job.close()
    return told
