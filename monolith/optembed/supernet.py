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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from monolith.config import JobConfig
from monolith.tables.arguments import Matrix
from monolith.tables.batch import Bag, Batch
from monolith.tables.collection import Collection, Output
from monolith.tables.embedding import Embedding
from monolith.tables.pooling import pool, spread
from monolith.tables.table_step import TableBatch, Times
from monolith.training.devices import ToHost, crossed, to_device
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
        self.reads, self.others = reads_of(self)

    def _read(self, batch: Batch, times: npt.NDArray[np.int64] | None) -> Inputs:
        matrix = np.zeros((len(batch), sum(self.vectors.values())), np.float32)
        if times is not None:
            self._steps += 1
        rng = np.random.default_rng([self.job.seed, 17, self._steps])
        for read in self.reads:
            read.look(batch.bags, times, self.thresholds[read.name])
            read.pool_into(matrix, rng if times is not None else None)
        self.others.read_into(matrix, batch.bags, times)
        self._leaf = torch.from_numpy(matrix).requires_grad_(times is not None)
        return Inputs(crossed(self._leaf, self.device), self.vectors, self._numbers(batch.dense))

    def _backward(self, outputs: torch.Tensor, matrix: torch.Tensor, batch: Batch) -> None:
        super()._backward(outputs, matrix, batch)
        assert self._leaf.grad is not None
        grads = self._leaf.grad.numpy()
        self.others.apply(grads)
        for read in self.reads:
            pull, t = read.apply(grads), self.thresholds[read.name]
            self.thresholds[read.name] = t - self._rate * (pull - self._alpha * float(np.exp(-t)))

    def said_of(self, matrix: Floats, dense: Mapping[str, Floats]) -> Predictions:
        """What the network says of vectors side by side, (batch, columns), and dense features."""
        vectors = to_device(torch.from_numpy(matrix), self.device)
        with torch.no_grad():
            outputs = ToHost(self.model(Inputs(vectors, self.vectors, self._numbers(dense)))).wait()
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
        self.reads, self.others = reads_of(self)


def reads_of(learner: Learner) -> tuple[list[SearchedTable], OtherTables]:
    """What is read of the searched tables of ``learner``, and of all others."""
    begins = dict(zip(learner.vectors, np.cumsum([0, *learner.vectors.values()]).tolist(), strict=False))
    columns = {name: slice(begin, begin + learner.vectors[name]) for name, begin in begins.items()}
    found, names = [], searched(learner.job)
    for name in names:
        outputs = [out for out in learner.collection.outputs if out.table == name]
        places = [columns[out.name] for out in outputs]
        salted = any(out.salted for out in outputs)
        found.append(SearchedTable(learner.tables[name], [out.feature for out in outputs], places, salted=salted))
    others = [out for out in learner.collection.outputs if out.table not in names]
    tables = {name: table for name, table in learner.tables.items() if name not in names}
    return found, OtherTables(tables, others, [columns[out.name] for out in others])


class OtherTables:
    """The tables that are trained as they are, and where their vectors lie in the matrix that the network reads."""

    def __init__(self, tables: Mapping[str, Embedding], outputs: Sequence[Output], columns: Sequence[slice]) -> None:
        self._collection = Collection(tables, outputs) if outputs else None
        self._columns = np.concatenate([np.zeros(0, np.intp), *(np.arange(c.start, c.stop) for c in columns)])

    def read_into(self, matrix: Floats, bags: Mapping[str, Bag], times: Times) -> None:
        """Write the vectors of a batch, as a step's with ``times``, else only to score."""
        if self._collection is None:
            return
        in_order = [bags[out.feature] for out in self._collection.outputs]
        if times is None:
            matrix[:, self._columns] = self._collection.lookup(in_order)
        else:
            self._step = self._collection.forward(in_order, times)
            matrix[:, self._columns] = self._step.vectors

    def apply(self, grads: Floats) -> None:
        """Give the rows of the step their gradients, from those (batch, columns) of the matrix."""
        if self._collection is not None:
            self._step.apply_matrix(np.ascontiguousarray(grads[:, self._columns]))


class SearchedTable:
    """One table with a threshold, and where the vectors of its features lie in the matrix."""

    def __init__(self, table: Embedding, features: list[str], columns: list[slice], *, salted: bool) -> None:
        self.name, self.table, self.columns = table.config.name, table, columns
        self._features, self._salted = features, salted
        self.prefixes: list[Floats | None] = []  # of the newest batch, by feature: (batch, dim) of ones and zeros

    def keys(self, bags: Mapping[str, Bag]) -> TableBatch:
        """The ids of a batch, one feature after the other."""
        return TableBatch(self._features, bags, salted=self._salted)

    def look(self, bags: Mapping[str, Bag], times: Times, threshold: float) -> None:
        """Read the rows of a batch, as a step's with ``times``, else only to score; mask them by ``threshold``."""
        self._batch = batch = self.keys(bags)
        if times is None:
            self._values = self.table.lookup(batch.ids)
        else:
            native = self.table.one_table
            assert native is not None
            runs = batch.runs if self.table.config.per_feature else None
            self._step = native.step(batch.ids, event_time_ms=batch.times(times), feature=runs)
            self._values = self._step.values
        self._margin = sizes(self._values) - np.float32(threshold)

    def pool_into(self, matrix: Floats, rng: np.random.Generator | None) -> None:
        """Write the vectors of the table's features into their columns; with ``rng``, prefixes of drawn widths."""
        self.prefixes = []
        for columns, vectors in self.pooled(self._batch, self._values * (self._margin > 0)[:, None]):
            prefix = None
            if rng is not None:
                widths = rng.integers(1, vectors.shape[1] + 1, len(vectors))
                prefix = (np.arange(vectors.shape[1]) < widths[:, None]).astype(np.float32)
            self.prefixes.append(prefix)
            matrix[:, columns] = vectors if prefix is None else vectors * prefix

    def pooled(self, batch: TableBatch, rows: Matrix) -> Iterator[tuple[slice, Matrix]]:
        """The vectors of each feature, and their columns, of the rows of a batch's ids."""
        ends = np.cumsum([len(bag.ids) for bag in batch.bags])[:-1]
        for columns, part, bag in zip(self.columns, np.split(rows, ends), batch.bags, strict=True):
            yield columns, pool(part, bag, self.table.config.pooling)

    def apply(self, grads: Floats) -> float:
        """Give the rows their gradients, from those (batch, columns) of the matrix; returns that of the threshold."""
        given = []
        for columns, bag, prefix in zip(self.columns, self._batch.bags, self.prefixes, strict=True):
            assert prefix is not None
            given.append(spread(grads[:, columns] * prefix, bag, self.table.config.pooling))
        of_rows = np.concatenate(given)
        of_masks = surrogate(self._margin) * (of_rows * self._values).sum(axis=1)
        kept = (self._margin > 0)[:, None]
        through = (of_masks / self.table.dim)[:, None] * np.sign(self._values)
        self._step.apply_gradients(np.ascontiguousarray(of_rows * kept + through))
        return -float(of_masks.sum(dtype=np.float64))
