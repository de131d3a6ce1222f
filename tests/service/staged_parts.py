"""A delta divided by buckets, as the ranks of a job have it, a commit of all its parts, and replicas that look on."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np

from monolith.tables.delta import Delta, ModelDelta
from monolith.tables.split import Owners, buckets_of


def part_of(delta: ModelDelta, part: int, parts: int) -> dict[str, Delta]:
    """Each table's delta of the buckets of one of ``parts``."""
    owners = Owners.evenly(parts)
    return {name: _of_owner(table, owners, part) for name, table in delta.tables.items()}


def _of_owner(table: Delta, owners: Owners, part: int) -> Delta:
    own = owners.of_bucket[buckets_of(table.ids)] == part
    gone = owners.of_bucket[buckets_of(table.removed)] == part
    tail = None if table.tail is None else _of_owner(table.tail, owners, part)
    return dataclasses.replace(
        table,
        ids=table.ids[own],
        values=table.values[own],
        removed=table.removed[gone],
        tail=tail,
        buckets=owners.buckets(part),
    )


def publish(store, delta: ModelDelta, parts: int, generation: int, lineage: str) -> bool:
    """Begin, stage all parts, the last one first, and commit; False where the store has it."""
    ticket = store.begin(delta.base_sequence, delta.sequence, parts, generation, lineage)
    if ticket is None:
        return False
    receipts = [store.stage(ticket, part, part_of(delta, part, parts)) for part in reversed(range(parts))]
    return store.commit(ticket, receipts, without_tables(delta))


def without_tables(delta: ModelDelta) -> ModelDelta:
    """What whoever commits has to give."""
    return dataclasses.replace(delta, tables={})


def served(store, model):
    """What the store's image holds, as id -> row."""
    return model.rows_of(store.image().delta.tables["user"])


def large(scripted, payload="float32", dim=3):
    """Three sequences whose parts take several pieces, with ids on both sides of zero."""
    model = scripted(payload=payload, dim=dim)
    ids = np.unique(np.random.default_rng(1).integers(-(2**62), 2**62, 4_000)).tolist()
    model.write(*ids)
    model.write(*ids[::3], 5, 6, remove=tuple(ids[1::7]))
    model.write(*ids[1::7][:50], remove=(5,))
    return model


class Follower:
    """A replica beside the writers, which compares every version that it comes to with the history, to its end."""

    def __init__(self, store, model) -> None:
        self._model, self._store = model, store
        self._failures: list[str] = []
        self._seen = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.is_set():
            delta = self._store.image().delta
            if self._model.rows_of(delta.tables["user"]) != self._model.states[delta.sequence]:
                self._failures.append(f"sequence {delta.sequence} is mixed")
            self._seen = delta.sequence

    def reach(self, sequence: int) -> None:
        ended = threading.Event()
        for _ in range(2_000):
            if self._seen == sequence:
                return
            ended.wait(0.01)
        raise AssertionError(f"the replica came to {self._seen}, not to {sequence}")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self._failures == []
