"""The supernet: one training in which every width of every table is trained, and a threshold for each table is learnt.

In a training step a table of kind ``optembed`` gives, of each sample's vector, the first k columns, k being drawn
uniformly from 1 to its dim anew for each sample and feature; and a row only if its *size*, the mean of its values'
absolute values, is above the table's threshold t. With ``m = 1[size - t > 0]`` a vector is ``prefix_k * m * row``.
The step has no gradient, so ``s(size - t)`` stands for its derivative: the row gets ``m * g + s * dL/dm * sign(row) /
dim``, and t gets ``-s * dL/dm`` over all that was read, where ``dL/dm`` is the product of g and row. The loss has
``alpha * exp(-t)`` besides, which pulls thresholds up; plain SGD moves them.

The paper takes the sum of the absolute values; the mean keeps rows of any dim within the reach of s, and means the same
in a table of fewer columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from monolith.config import JobConfig
from monolith.tables.arguments import Matrix
from monolith.tables.batch import Bag, Batch
from monolith.tables.embedding import Embedding
from monolith.tables.pooling import pool, spread
from monolith.tables.table_step import TableBatch, Times
from monolith.training.inputs import Inputs
from monolith.training.learner import Learner, Predictions
from monolith.training.loss import predictions_of

Floats = npt.NDArray[np.float32]

_STATE = "thresholds.json"


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    thresholds: dict[str, float]
    steps: int


def searched(job: JobConfig) -> list[str]:
    """The tables that the supernet has thresholds and widths of."""
    return [table.name for table in job.tables if table.kind == "optembed"]


def surrogate(u: Floats) -> Floats:
    """What stands for the derivative of ``1[u > 0]``: 2 - 4|u| up to 0.4, 0.4 up to 1, 0 beyond."""
    far = np.abs(u)
    return np.where(far <= 0.4, 2 - 4 * far, np.where(far <= 1, 0.4, 0)).astype(np.float32)


def sizes(rows: Matrix) -> Floats:
    """The mean absolute value of each of ``rows`` (n, dim), (n,)."""
    result: Floats = np.abs(rows).mean(axis=1, dtype=np.float32)
    return result


class Supernet(Learner):
    """A learner whose tables of kind ``optembed`` are masked. Scores are of full width, rows masked."""

    def __init__(self, job: JobConfig, *, alpha: float, threshold_lr: float) -> None:
        super().__init__(job)
        self.thresholds = dict.fromkeys(searched(job), 0.0)
        self._alpha, self._rate = alpha, threshold_lr
        self._steps = 0
        self._leaf = torch.zeros(0)
        self.reads = reads_of(self)

    def _read(self, batch: Batch, times: npt.NDArray[np.int64] | None) -> Inputs:
        for read in self.reads:
            read.look(batch.bags, times, self.thresholds.get(read.name))
        matrix = np.zeros((len(batch), sum(self.vectors.values())), np.float32)
        if times is not None:
            self._steps += 1
        rng = np.random.default_rng([self.job.seed, 17, self._steps])
        for read in self.reads:
            read.pool_into(matrix, rng if times is not None else None)
        self._leaf = torch.from_numpy(matrix).requires_grad_(times is not None)
        dense = {name: torch.tensor(column) for name, column in batch.dense.items()}
        return Inputs(self._leaf, self.vectors, dense)

    def _backward(self, outputs: torch.Tensor, matrix: torch.Tensor, batch: Batch) -> None:
        super()._backward(outputs, matrix, batch)
        assert self._leaf.grad is not None
        grads = self._leaf.grad.numpy()
        for read in self.reads:
            pull = read.apply(grads)
            if read.name in self.thresholds:
                t = self.thresholds[read.name]
                self.thresholds[read.name] = t - self._rate * (pull - self._alpha * float(np.exp(-t)))

    def said_of(self, matrix: Floats, dense: Mapping[str, Floats]) -> Predictions:
        """What the network says of vectors side by side, (batch, columns), and dense features."""
        numbers = {name: torch.tensor(column) for name, column in dense.items()}
        with torch.no_grad():
            outputs = self.model(Inputs(torch.from_numpy(matrix), self.vectors, numbers))
            return predictions_of(self.job.labels, outputs).numpy()

    def save(self, folder: Path) -> None:
        """Keep the learner and its thresholds in an empty folder."""
        super().save(folder)
        (folder / _STATE).write_bytes(msgspec.json.encode(_State(self.thresholds, self._steps)))

    def load(self, folder: Path) -> None:
        """Be what `save` kept."""
        super().load(folder)
        state = msgspec.json.decode((folder / _STATE).read_bytes(), type=_State)
        self.thresholds, self._steps = dict(state.thresholds), state.steps
        self.reads = reads_of(self)


def reads_of(learner: Learner) -> list[_Read]:
    """What is read of each table of ``learner``, in order."""
    begins = dict(zip(learner.vectors, np.cumsum([0, *learner.vectors.values()]).tolist(), strict=False))
    outputs = learner.collection.outputs
    found = []
    for name, table in learner.tables.items():
        own = [out for out in outputs if out.table == name]
        features = [out.feature for out in own]
        salted = any(out.salted for out in own)
        found.append(_Read(name, table, features, [begins[out.name] for out in own], salted=salted))
    return found


class _Read:
    """One table, and where the vectors of its features lie in the matrix that the network reads."""

    def __init__(self, name: str, table: Embedding, features: list[str], begins: list[int], *, salted: bool) -> None:
        self.name, self.table = name, table
        self._features, self._begins, self._salted = features, begins, salted
        self._prefixes: list[Floats | None] = []

    def keys(self, bags: Mapping[str, Bag]) -> TableBatch:
        """The ids of a batch, one feature after the other."""
        return TableBatch(self._features, bags, salted=self._salted)

    def look(self, bags: Mapping[str, Bag], times: Times, threshold: float | None) -> None:
        """Read the rows of a batch, as a step's with ``times``, else only to score; mask them by ``threshold``."""
        self._batch = self.keys(bags)
        self._threshold = threshold
        if times is None:
            self._values = self.table.lookup(self._batch.ids)
        else:
            self._values, self._give = self._begun(self._batch, times)
        self._margin = None if threshold is None else sizes(self._values) - np.float32(threshold)

    def _begun(self, batch: TableBatch, times: Times) -> tuple[Matrix, Callable[[Matrix], None]]:
        """The rows of a step, and what takes their gradients."""
        native, each = self.table.one_table, batch.times(times)
        if native is None:
            apart = self.table.begin(batch.ids, event_time_ms=each)
            return apart.values, apart.apply
        runs = batch.runs if self.table.config.per_feature else None
        step = native.step(self.table.keys(batch.ids), event_time_ms=each, feature=runs)
        return step.values, step.apply_gradients

    def pool_into(self, matrix: Floats, rng: np.random.Generator | None) -> None:
        """Write the vectors of the table's features into their columns; with ``rng``, prefixes of drawn widths."""
        rows = self._values if self._margin is None else self._values * (self._margin > 0)[:, None]
        self._prefixes = []
        for begin, part, bag in self._parts(rows):
            vectors = pool(part, bag, self.table.config.pooling)
            prefix = None
            if rng is not None and self._margin is not None:
                widths = rng.integers(1, vectors.shape[1] + 1, len(vectors))
                prefix = (np.arange(vectors.shape[1]) < widths[:, None]).astype(np.float32)
                vectors = vectors * prefix
            self._prefixes.append(prefix)
            matrix[:, begin : begin + vectors.shape[1]] = vectors

    def _parts(self, rows: Matrix) -> list[tuple[int, Matrix, Bag]]:
        ends = np.cumsum([len(bag.ids) for bag in self._batch.bags])[:-1]
        return list(zip(self._begins, np.split(rows, ends), self._batch.bags, strict=True))

    def apply(self, grads: Floats) -> float:
        """Give the rows their gradients, from those (batch, columns) of the matrix; returns that of the threshold."""
        given, dim = [], self.table.dim
        for begin, bag, prefix in zip(self._begins, self._batch.bags, self._prefixes, strict=True):
            grad = grads[:, begin : begin + dim]
            given.append(spread(grad if prefix is None else grad * prefix, bag, self.table.config.pooling))
        of_rows = np.ascontiguousarray(np.concatenate(given))
        if self._margin is None:
            self._give(of_rows)
            return 0.0
        of_masks = surrogate(self._margin) * (of_rows * self._values).sum(axis=1)
        kept = (self._margin > 0)[:, None]
        self._give(np.ascontiguousarray(of_rows * kept + (of_masks / dim)[:, None] * np.sign(self._values)))
        return -float(of_masks.sum(dtype=np.float64))
