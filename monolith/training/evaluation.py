"""How good a model is on given samples, without learning from them: exact scores, calibration, slices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from monolith.config import TaskConfig
from monolith.tables.batch import Batch, Ints
from monolith.training.metrics import Scores, scores_of, weights_of
from monolith.training.ranking import Floats
from monolith.training.task_metrics import Errors, errors_of

DECILES = 10

Result = Scores | Errors


class Bin(NamedTuple):
    """Samples whose predictions are neighbours."""

    samples: int
    predicted: float  # mean
    observed: float  # mean label

    @property
    def calibration(self) -> float:
        """Predicted over observed positives; NaN where none was observed."""
        return self.predicted / self.observed if self.observed else math.nan


class _Columns(NamedTuple):
    """What is kept of samples; the first three are (n, tasks)."""

    predictions: Floats
    labels: Floats
    weights: Floats
    rates: Floats
    groups: Ints

    def take(self, rows: Ints) -> _Columns:
        return _Columns(
            self.predictions[rows], self.labels[rows], self.weights[rows], self.rates[rows], self.groups[rows]
        )


class Slice(msgspec.Struct, frozen=True):
    """The samples that have one value of a feature."""

    value: int  # the id; a sample of a bag is in the slice of each of its ids
    scores: Result


class Evaluation:
    """Collects predictions of a whole set of samples. Not thread safe."""

    def __init__(self, tasks: Sequence[TaskConfig], by: Sequence[str] = ()) -> None:
        """``by``: features whose values slice the samples."""
        self._tasks, self._by = list(tasks), list(by)
        self._columns: list[_Columns] = []
        self._slices: dict[str, list[tuple[Ints, Ints]]] = {name: [] for name in by}
        self.samples = 0

    def add(self, batch: Batch, predictions: Floats) -> None:
        """Take in samples and what the model says of them, (n,) or (n, tasks)."""
        weights = np.column_stack([weights_of(batch, task) for task in range(len(self._tasks))])
        columns = predictions.reshape(len(batch), len(self._tasks)).copy()
        self._columns.append(_Columns(columns, batch.labels.copy(), weights, batch.rates.copy(), batch.groups.copy()))
        for name in self._by:
            bag = batch.bags[name]
            places = self.samples + np.repeat(np.arange(len(batch)), bag.lengths)
            self._slices[name].append((np.array(bag.ids), places))
        self.samples += len(batch)

    def scores(self) -> dict[str, Result]:
        """Exact scores of each task over all samples; empty for no sample."""
        return {task.name: self._scores(place, None) for place, task in enumerate(self._tasks)} if self.samples else {}

    def bins(self, place: int = 0, count: int = DECILES) -> list[Bin]:
        """Predictions of task ``place`` in ``count`` parts of equal size, ascending; fewer of fewer samples."""
        columns = self._joined()
        predictions, labels, weights = (c[:, place] for c in (columns.predictions, columns.labels, columns.weights))
        used = np.flatnonzero(weights > 0)
        order = used[np.argsort(predictions[used], kind="stable")]
        parts = [part for part in np.array_split(order, count) if len(part)]
        return [
            Bin(
                len(part),
                float(np.average(predictions[part], weights=weights[part])),
                float(np.average(labels[part], weights=weights[part])),
            )
            for part in parts
        ]

    def slices(self, feature: str, place: int = 0, most: int = 10) -> Iterator[Slice]:
        """The ``most`` commonest values of ``feature``, each with the scores of task ``place`` over its samples."""
        ids, places = (np.concatenate(parts) for parts in zip(*self._slices[feature], strict=True))
        values, slots, counts = np.unique(ids, return_inverse=True, return_counts=True)
        for number in np.argsort(-counts, kind="stable")[:most].tolist():
            rows = np.unique(places[slots == number])
            yield Slice(int(values[number]), self._scores(place, rows))

    def _scores(self, place: int, rows: Ints | None) -> Result:
        columns = self._joined() if rows is None else self._joined().take(rows)
        predictions, labels, weights = (c[:, place] for c in (columns.predictions, columns.labels, columns.weights))
        if self._tasks[place].loss == "log":
            return scores_of(predictions, labels, weights, columns.rates, columns.groups)
        return errors_of(predictions, labels, weights)

    def _joined(self) -> _Columns:
        if len(self._columns) > 1:
            self._columns = [_concatenated(self._columns)]
        return self._columns[0]


def _concatenated(parts: Sequence[_Columns]) -> _Columns:
    return _Columns(
        np.concatenate([part.predictions for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.rates for part in parts]),
        np.concatenate([part.groups for part in parts]),
    )
