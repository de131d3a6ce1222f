"""The metrics of a job: of each task those that its loss asks for, over the samples in which it has a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from monolith.config import TaskConfig
from monolith.errors import CorruptError, InputError, VersionError
from monolith.tables.batch import Batch
from monolith.training.metrics import StreamMetrics, weights_of
from monolith.training.ranking import Floats

STATE_VERSION = 2  # read as well: 1, the state of one binary task's `StreamMetrics`


class Errors(msgspec.Struct, frozen=True):
    """How far predictions were from numbers; NaN where there was no sample. A label that weighs w counts w times."""

    samples: int
    rmse: float
    mae: float
    mean_label: float
    mean_prediction: float


class _Sums(msgspec.Struct):
    """Added up in float64."""

    samples: int = 0
    weight: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0
    observed: float = 0.0
    predicted: float = 0.0

    def add(self, predictions: Floats, labels: Floats, weights: Floats) -> None:
        p, y, w = (column.astype(np.float64) for column in (predictions, labels, weights))
        self.samples += len(p)
        self.weight += float(w.sum())
        self.squared += float((w * (p - y) ** 2).sum())
        self.absolute += float((w * np.abs(p - y)).sum())
        self.observed += float((w * y).sum())
        self.predicted += float((w * p).sum())

    def errors(self) -> Errors:
        means = [
            total / self.weight if self.weight else math.nan
            for total in (self.squared, self.absolute, self.observed, self.predicted)
        ]
        return Errors(self.samples, math.sqrt(means[0]), *means[1:])


def errors_of(predictions: Floats, labels: Floats, weights: Floats) -> Errors:
    """Errors over samples, columns (n,); labels that weigh nothing do not count."""
    sums, has = _Sums(), weights > 0
    sums.add(predictions[has], labels[has], weights[has])
    return sums.errors()


class _NumbersState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    total: _Sums
    open: _Sums
    last: Errors | None


class NumberMetrics:
    """Metrics of a task with loss ``squared``, over windows of exactly ``window`` labels and since the start.

    A function of the sequence of updates, as `StreamMetrics`. Not thread safe.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.last: Errors | None = None  # the newest full window
        self._total, self._open = _Sums(), _Sums()

    def update(self, batch: Batch, predictions: Floats, task: int = 0) -> list[Errors]:
        """Take in a batch, scored (n,) before it was trained on; returns the windows that it fills, oldest first."""
        if len(batch) != len(predictions):
            raise InputError(f"{len(batch)} samples have {len(predictions)} predictions: give one for each")
        weights = weights_of(batch, task)
        has = weights > 0
        columns = [column[has] for column in (predictions, batch.labels[:, task], weights)]
        closed, start, end = [], 0, int(has.sum())
        while start < end:
            stop = min(end, start + max(0, self.window - self._open.samples))
            self._total.add(*(column[start:stop] for column in columns))
            self._open.add(*(column[start:stop] for column in columns))
            start = stop
            if self._open.samples >= self.window:
                self.last, self._open = self._open.errors(), _Sums()
                closed.append(self.last)
        return closed

    @property
    def total(self) -> Errors:
        """Since the start, the open window included."""
        return self._total.errors()

    def report(self) -> dict[str, Any]:
        """See `StreamMetrics.report`."""
        window = None if self.last is None else msgspec.structs.asdict(self.last)
        return {"total": msgspec.structs.asdict(self.total), "window": window}

    def state(self) -> bytes:
        """Everything; equal histories give equal bytes."""
        return msgspec.msgpack.encode(_NumbersState(self._total, self._open, self.last))

    def restore(self, data: bytes) -> None:
        """Be what ``state`` was taken from. Raises CorruptError, and changes nothing, if the bytes are damaged."""
        try:
            state = msgspec.msgpack.decode(data, type=_NumbersState)
        except msgspec.MsgspecError as error:
            raise CorruptError(f"{len(data)} bytes of metrics state cannot be read: {error}") from error
        self._total, self._open, self.last = state.total, state.open, state.last


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    samples: int
    tasks: list[tuple[str, bytes]]


class JobMetrics:
    """The metrics of every task, and how many samples there were. Not thread safe."""

    def __init__(self, tasks: Sequence[TaskConfig], window: int) -> None:
        self.samples = 0  # since the start, labelled for whichever task
        self._tasks, self._window = list(tasks), window
        self.by_task = self._empty()

    def _empty(self) -> dict[str, StreamMetrics | NumberMetrics]:
        return {
            task.name: StreamMetrics(self._window) if task.loss == "log" else NumberMetrics(self._window)
            for task in self._tasks
        }

    def update(self, batch: Batch, predictions: Floats) -> None:
        """Take in a batch with predictions, (n,) for one task and (n, tasks) for several, of before its training."""
        columns = predictions.reshape(len(batch), len(self._tasks))
        for place, metrics in enumerate(self.by_task.values()):
            metrics.update(batch, columns[:, place], place)
        self.samples += len(batch)

    def report(self) -> dict[str, Any]:
        """``total`` and ``window`` of the one task; of several, ``tasks`` with those of each."""
        reports = {name: metrics.report() for name, metrics in self.by_task.items()}
        return next(iter(reports.values())) if len(reports) == 1 else {"tasks": reports}

    def state(self) -> bytes:
        """Everything, as canonical bytes: equal histories give equal bytes."""
        states = [(name, metrics.state()) for name, metrics in self.by_task.items()]
        return msgspec.msgpack.encode(_State(STATE_VERSION, self.samples, states))

    def restore(self, data: bytes) -> None:
        """Be what ``state`` was taken from. Raises VersionError or CorruptError, and changes nothing then."""
        restored = self._empty()
        states, samples = _states(data, list(restored))
        for name, state in states.items():
            restored[name].restore(state)
        if samples is None:
            samples = next(iter(restored.values())).total.samples
        self.by_task, self.samples = restored, samples


def _states(data: bytes, names: list[str]) -> tuple[dict[str, bytes], int | None]:
    """The state of each of the tasks ``names``, and the number of samples; version 1 has the one task's."""
    try:
        plain = msgspec.msgpack.decode(data)
        version = plain["version"]
        if version == 1 and len(names) == 1:
            return {names[0]: data}, None
        if version != STATE_VERSION:
            raise VersionError(f"the metrics state is of version {version!r}, this build reads 1 and {STATE_VERSION}")
        state = msgspec.msgpack.decode(data, type=_State)
    except (msgspec.DecodeError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise CorruptError(f"{len(data)} bytes of metrics state cannot be read: {error}") from error
    if [name for name, _ in state.tasks] != names:
        raise CorruptError(
            f"the metrics state is of the tasks {[name for name, _ in state.tasks]}, the job has {names}"
        )
    return dict(state.tasks), state.samples
