"""Answers straight from the store, for a model that is too large for the replica's memory.

Every question is one atomic read of the store. Card, graph and dense weights are kept until the store's version says
that they are of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from monolith.errors import UnavailableError
from monolith.serving.inference import Gather, Gathered, Inference, Request
from monolith.serving.ledger import Version
from monolith.serving.predictor import Weights, load_weights
from monolith.serving.store import Ids, Reading, Store, Values

_TRIES = 5
_T = TypeVar("_T")


class _MovedError(Exception):
    """The store holds another card or graph than the question was made for."""


class Direct:
    """Asks the store. Any thread may call it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inference: tuple[Version, Inference] | None = None
        self._weights: tuple[Version, Weights] | None = None

    def answer(self, question: Callable[[Inference, Gather], _T]) -> _T:
        """The question's answer, from one version. UnavailableError if the store is away or changes all the time."""
        for _ in range(_TRIES):
            version, inference = self._inference or self._load()
            try:
                return question(inference, self._gather_for(version))
            except _MovedError:
                self._inference = None
        raise UnavailableError(f"{self._store.url} changed its model {_TRIES} times during one question: try again")

    def _load(self) -> tuple[Version, Inference]:
        model = self._store.model()
        self._inference = model.version, Inference(model.card, model.graph, self._store.url)
        return self._inference

    def _gather_for(self, version: Version) -> Gather:
        def gather(requests: Sequence[Request], weights: bool) -> Gathered:
            by_table = _joined(requests)
            reading, dense = self._read(by_table, weights)
            if (reading.version.generation, reading.version.image) != (version.generation, version.image):
                raise _MovedError
            return Gathered(reading.version, _split(requests, reading), dense)

        return gather

    def _read(self, by_table: dict[str, Ids], weights: bool) -> tuple[Reading, Weights]:
        """Rows and, if wanted, the weights of the same version: the kept ones if they still are."""
        kept = self._weights
        if not weights or kept is not None:
            reading = self._store.read_together(by_table)
            if not weights:
                return reading, {}
            if kept is not None and reading.version == kept[0]:
                return reading, kept[1]
        reading = self._store.read_together(by_table, dense=True)
        fresh = load_weights(reading.dense or b"", self._store.url)
        self._weights = reading.version, fresh
        return reading, fresh


def _joined(requests: Sequence[Request]) -> dict[str, Ids]:
    """Each table once, with the ids of all its requests in order."""
    tables = dict.fromkeys(table for table, _ in requests)
    return {name: np.concatenate([ids for table, ids in requests if table == name]) for name in tables}


def _split(requests: Sequence[Request], reading: Reading) -> list[Values]:
    """The rows of each request."""
    starts = dict.fromkeys(reading.rows, 0)
    answers = []
    for table, ids in requests:
        start = starts[table]
        starts[table] += len(ids)
        answers.append(reading.rows[table][0][start : starts[table]])
    return answers
