"""Answers straight from the store, for a model that is too large for the replica's memory.

Every question is one atomic read of the store; where absent ids share rows, it reads those of all ids asked for as
well. Card, graph and dense weights are kept until the store's version says that they are of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from monolith.errors import UnavailableError
from monolith.forks import in_child
from monolith.serving.inference import Gather, Gathered, Inference
from monolith.serving.ledger import Version
from monolith.serving.pieces import Pieces, at_once, finished
from monolith.serving.predictor import Weights, load_weights
from monolith.serving.store import Found, Ids, Reading, Store, Values
from monolith.tables.tail import tail_name, tail_numbers
from monolith.tables.vectors import Request

_TRIES = 5
_T = TypeVar("_T")
_inherited: list[object] = []


class _MovedError(Exception):
    """The store holds another card or graph than the question was made for."""


class Direct:
    """Asks the store. Any thread may call it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inference: tuple[Version, Inference] | None = None
        self._weights: tuple[Version, Weights] | None = None
        in_child(self._begin_anew)

    def _begin_anew(self) -> None:
        """In a forked child: a graph that another thread may have been running is not touched, nor freed."""
        _inherited.append(self._inference)
        self._inference = None

    def ask(self, question: Callable[[Inference, Gather], _T]) -> _T:
        """``answer`` to a question of one piece."""
        return finished(self.answer(lambda inference, gather: at_once(lambda: question(inference, gather))))

    def answer(self, question: Callable[[Inference, Gather], Pieces[_T]]) -> Pieces[_T]:
        """The question's answer, from one version. UnavailableError if the store is away or changes all the time."""
        for _ in range(_TRIES):
            version, inference = self._inference or self._load()
            try:
                return (yield from question(inference, self._gather_for(version, inference.card.tails)))
            except _MovedError:
                self._inference = None
        raise UnavailableError(f"{self._store.url} changed its model {_TRIES} times during one question: try again")

    def _load(self) -> tuple[Version, Inference]:
        model = self._store.model()
        self._inference = model.version, Inference(model.card, model.graph, self._store.url)
        return self._inference

    def _gather_for(self, version: Version, tails: Mapping[str, int]) -> Gather:
        def gather(requests: Sequence[Request], weights: bool, mask: bool = False) -> Gathered:
            shared = [(tail_name(name), tail_numbers(ids, tails[name])) for name, ids in requests if name in tails]
            reading, dense = self._read(_joined([*requests, *shared]), weights)
            if (reading.version.generation, reading.version.image) != (version.generation, version.image):
                raise _MovedError
            answers = _split([*requests, *shared], reading)
            found = [found for _, found in answers[: len(requests)]] if mask else None
            return Gathered(reading.version, _with_shared(requests, answers, tails), dense, found)

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


def _split(requests: Sequence[Request], reading: Reading) -> list[tuple[Values, Found]]:
    """The rows of each request, and which were found."""
    starts = dict.fromkeys(reading.rows, 0)
    answers = []
    for table, ids in requests:
        start = starts[table]
        starts[table] += len(ids)
        values, found = reading.rows[table]
        answers.append((values[start : starts[table]], found[start : starts[table]]))
    return answers


def _with_shared(
    requests: Sequence[Request], answers: Sequence[tuple[Values, Found]], tails: Mapping[str, int]
) -> list[Values]:
    """The rows of each request, absent ids having those that they share: answers that follow on the requests' own."""
    shared = iter(answers[len(requests) :])
    return [
        np.where(found[:, None], values, next(shared)[0]) if name in tails else values
        for (name, _), (values, found) in zip(requests, answers, strict=False)
    ]
