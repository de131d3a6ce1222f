"""Embeddings that make a vector of several rows: each is stepped alone, on the ids of all its features at once.

Their vectors are made before pooling, since a product of pooled rows is not the pooled product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monolith.tables.arguments import EventTimes, Matrix
from monolith.tables.batch import Bag
from monolith.tables.embedding import Embedding, EmbeddingStep
from monolith.tables.pooling import pool, spread
from monolith.tables.table_step import TableBatch

Grad = npt.NDArray[np.float32] | None  # (batch, dim) of one output; None: the loss does not use it


Given = tuple[Matrix, npt.NDArray[np.intp] | None]  # gradients, and of which of a batch's ids; None: of all


class Reads(Protocol):
    """One output; ``tables.collection.Output`` is one."""

    @property
    def feature(self) -> str:
        """Whose bags."""

    @property
    def table(self) -> str:
        """Which table's vectors."""

    @property
    def salted(self) -> bool:
        """Whether the ids are salted by the feature."""


@dataclass(frozen=True, slots=True)
class _Read:
    """One embedding, and the outputs that are read from it."""

    table: Embedding
    numbers: list[int]
    features: list[str]
    salted: bool

    def batch(self, bags: Sequence[Bag]) -> TableBatch:
        by_feature = {name: bags[number] for name, number in zip(self.features, self.numbers, strict=True)}
        return TableBatch(self.features, by_feature, salted=self.salted)

    def pooled(self, vectors: Matrix, batch: TableBatch) -> dict[int, Matrix]:
        """The vectors of each output, (batch, dim)."""
        parts = np.split(vectors, _ends(batch))
        pooling = self.table.config.pooling
        return {n: pool(part, bag, pooling) for n, part, bag in zip(self.numbers, parts, batch.bags, strict=True)}

    def spread(self, grads: Sequence[Grad], batch: TableBatch) -> Given | None:
        """The gradients of the batch's ids, and of which; None: no output has a gradient."""
        ends = [0, *_ends(batch).tolist(), len(batch.ids)]
        parts, places = [], []
        for k, (number, bag) in enumerate(zip(self.numbers, batch.bags, strict=True)):
            grad = grads[number]
            if grad is not None:
                parts.append(spread(grad, bag, self.table.config.pooling))
                places.append(np.arange(ends[k], ends[k + 1]))
        if not parts:
            return None
        whole = len(parts) == len(self.numbers)
        return np.ascontiguousarray(np.concatenate(parts)), None if whole else np.concatenate(places)


class Apart:
    """The embeddings of a collection that are stepped apart; false where there is none."""

    def __init__(self, tables: Mapping[str, Embedding], outputs: Sequence[tuple[int, Reads]]) -> None:
        """``outputs`` are those of such embeddings, with their numbers among the collection's."""
        self._reads = [
            _Read(
                tables[name],
                [number for number, out in outputs if out.table == name],
                [out.feature for _, out in outputs if out.table == name],
                any(out.salted for _, out in outputs if out.table == name),
            )
            for name in dict.fromkeys(out.table for _, out in outputs)
        ]

    def __bool__(self) -> bool:
        return bool(self._reads)

    def begin(self, bags: Sequence[Bag], event_time_ms: EventTimes) -> ApartStep:
        """Observe and read; ``bags`` are those of all outputs of the collection."""
        return ApartStep(self._reads, bags, event_time_ms)

    def lookup(self, bags: Sequence[Bag]) -> dict[int, Matrix]:
        """The pooled vectors by output; nothing is changed."""
        found: dict[int, Matrix] = {}
        for read in self._reads:
            batch = read.batch(bags)
            found |= read.pooled(read.table.lookup(batch.ids), batch)
        return found


class ApartStep:
    """A step that was begun with `Apart.begin`."""

    def __init__(self, reads: Sequence[_Read], bags: Sequence[Bag], event_time_ms: EventTimes) -> None:
        self._parts: list[tuple[_Read, TableBatch, EmbeddingStep]] = []
        self.vectors: dict[int, Matrix] = {}  # pooled, by output
        self._given: list[tuple[EmbeddingStep, Given | None]] = []
        for read in reads:
            batch = read.batch(bags)
            step = read.table.begin(batch.ids, event_time_ms=batch.times(event_time_ms))
            self._parts.append((read, batch, step))
            self.vectors |= read.pooled(step.values, batch)

    def take(self, grads: Sequence[Grad]) -> None:
        """Hand in the gradients of all outputs of the collection. Raises NonFiniteError where `apply` would."""
        self._given = [(step, read.spread(grads, batch)) for read, batch, step in self._parts]
        for step, given in self._given:
            if given is not None:
                step.check(*given)

    def apply(self) -> None:
        """One optimizer step for each unique row of each embedding, by the gradients that were taken."""
        for step, given in self._given:
            if given is not None:
                step.apply(*given)


def _ends(batch: TableBatch) -> npt.NDArray[np.int64]:
    """Where the ids of each feature but the last end among the batch's."""
    return np.cumsum([len(bag.ids) for bag in batch.bags], dtype=np.int64)[:-1]
