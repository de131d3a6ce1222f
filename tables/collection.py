"""The embeddings of a model, stepped together: one native call a batch forward, and one backward.

Those calls are for all embeddings whose vectors are rows of one native table, or some of its rows side by side, each of
which is pooled by itself. Embeddings that compute a vector from several rows (`tables.apart`) are stepped beside them,
one by one. NumPy only; ``monolith.training`` puts autograd around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError, NonFiniteError
from monolith.tables import _core
from monolith.tables.apart import Apart, ApartStep
from monolith.tables.arguments import EventTimes, Ids, Matrix, checked_ids, checked_times
from monolith.tables.batch import Bag
from monolith.tables.embedding import Embedding, Seen
from monolith.tables.hashing import feature_salt, salted
from monolith.tables.outputs import empty_matrix
from monolith.tables.table import Table

Keys = Callable[[Ids], list[Ids]]


@dataclass(frozen=True, slots=True)
class Output:
    """One vector of the result: which feature's bags, pooled from which table."""

    name: str  # the feature, or feature@table where several tables read the feature (torchrec's rule)
    feature: str
    table: str
    salted: bool = False  # the feature shares the table with others, but no rows


class Collection:
    """Embeddings by name, and what is read from them: ``outputs``, those of one table side by side, in table order."""

    def __init__(self, tables: Mapping[str, Embedding], outputs: Sequence[Output]) -> None:
        self.tables = dict(tables)
        self.outputs = tuple(outputs)
        self.dims = tuple(self.tables[out.table].width(out.feature) for out in outputs)
        self._begins = np.cumsum([0, *self.dims]).tolist()  # of each output's columns
        self._one = {name: table.one_table for name, table in self.tables.items() if table.one_table is not None}
        self._by_address = sorted(self._one.values(), key=id)
        self._fused = [number for number, out in enumerate(self.outputs) if out.table in self._one]
        self._apart = Apart(self.tables, [(n, out) for n, out in enumerate(self.outputs) if out.table not in self._one])
        self._keys = [_keys_of(self.tables[out.table], out) for out in self._fused_outputs()]
        features = [self._feature(out, keys) for out, keys in zip(self._fused_outputs(), self._keys, strict=True)]
        self._rows_of = [self._rows_in(out) for out in self.outputs]
        self._widths = [t.dim * n for t, n in zip(self._of_outputs(), self._rows_of, strict=True)]
        features = [feature for n, feature in zip(self._fused, features, strict=True) for _ in range(self._rows_of[n])]
        self._output_of = [n for n in self._fused for _ in range(self._rows_of[n])]  # of each native feature
        self._watched = {  # by table that watches
            name: [n for n in self._fused if self.outputs[n].table == name]
            for name, table in self.tables.items()
            if table.watches
        }
        self._native = _core.Collection([table.native for table in self._one.values()], features)
        self._as_rows = not self._apart and self._widths == list(self.dims)  # vectors are what native code gives
        self._spare: list[_core.Steps] = []  # their memory serves later steps

    def _of_outputs(self) -> list[Embedding | Table]:
        """Of each output, what has its columns: the native table, or the embedding that is stepped apart."""
        return [self._one.get(out.table, self.tables[out.table]) for out in self.outputs]

    def _rows_in(self, out: Output) -> int:
        """How many rows lie side by side in a vector."""
        fused = out.table in self._one
        return len(self.tables[out.table].keys(out.feature, np.zeros(0, np.int64))) if fused else 1

    def _fused_outputs(self) -> Iterator[Output]:
        return (self.outputs[number] for number in self._fused)

    def _feature(self, out: Output, keys: Keys | None) -> _core.Feature:
        return _core.Feature(
            table=list(self._one).index(out.table),
            salt=feature_salt(out.feature) if out.salted and keys is None else None,
            mean=self.tables[out.table].config.pooling == "mean",
            policy=self._one[out.table].policies.number(out.feature),
        )

    def forward(self, bags: Sequence[Bag], event_time_ms: EventTimes = None) -> CollectionStep:
        """Observe the ids of ``bags``, one for each output, and pool their vectors.

        ``event_time_ms`` is one time, one for each sample (batch,) int64, or None: the clocks stand. Raises InputError
        before any table is changed.
        """
        batch, out = self._batch(bags)
        times = checked_times(event_time_ms, len(out))
        steps = self._spare.pop() if self._spare else _core.Steps()
        with self._writing():
            self._native.forward(*batch, times, steps, out)
        watched = {number: bags[number] for numbers in self._watched.values() for number in numbers}
        if self._as_rows:
            return CollectionStep(self, out, steps, watched=watched)
        apart = self._apart.begin(bags, event_time_ms)
        return CollectionStep(self, self._together(out, apart.vectors), steps, apart, watched)

    def lookup(self, bags: Sequence[Bag]) -> Matrix:
        """The pooled vectors, (batch, sum of dims) float32, and nothing else: no table is changed."""
        batch, out = self._batch(bags)
        self._native.lookup(*batch, out)
        return out if self._as_rows else self._together(out, self._apart.lookup(bags))

    def rows(self, output: int, bag: Bag) -> Matrix:
        """The vectors of a bag's ids before pooling, (total, dim)."""
        out = self.outputs[output]
        ids = salted(out.feature, bag.ids) if out.salted else bag.ids
        return self.tables[out.table].lookup_of(out.feature, ids)

    def _together(self, fused: Matrix, apart: Mapping[int, Matrix]) -> Matrix:
        """All outputs' vectors side by side, (batch, sum of dims)."""
        widths = [self._widths[number] for number in self._fused]
        each = dict(zip(self._fused, np.split(fused, np.cumsum(widths)[:-1], axis=1), strict=True)) if widths else {}
        vectors = np.zeros((len(fused), sum(self.dims)), np.float32)
        for number, part in {**each, **apart}.items():
            begin = sum(self.dims[:number])
            vectors[:, begin : begin + part.shape[1]] = part
        return vectors

    def _batch(self, bags: Sequence[Bag]) -> tuple[tuple[list[object], list[object], list[object]], Matrix]:
        samples = len(bags[0].lengths) if bags else 0
        width = sum(self._widths[n] for n in self._fused)
        if self._apart:
            for bag in bags:
                checked_ids(bag.ids)
            bags = [bags[n] for n in self._fused]
        ids: list[object] = []
        lengths: list[object] = []
        weights: list[object] = []
        for bag, keys in zip(bags, self._keys, strict=True):
            own = [checked_ids(bag.ids)] if keys is None else keys(checked_ids(bag.ids))
            ids += own
            lengths += [None if bag.one_each else np.ascontiguousarray(bag.lengths, np.int32)] * len(own)
            weights += [None if bag.weights is None else np.ascontiguousarray(bag.weights, np.float32)] * len(own)
        return (ids, lengths, weights), empty_matrix(samples, width)

    def _by_row(self, grads: Sequence[Matrix | None]) -> list[Matrix | None]:
        """The gradients of the fused outputs' columns that rows have, cut into those of the rows side by side."""
        each: list[Matrix | None] = []
        for number in self._fused:
            grad, rows = grads[number], self._rows_of[number]
            own = None if grad is None else grad[:, : self._widths[number]]
            each += [own] * rows if own is None or rows == 1 else np.split(own, rows, axis=1)
        return each

    def _tell(self, bags: Mapping[int, Bag], grads: Sequence[Matrix | None] | Matrix) -> None:
        """What a step gave the ids of the tables that watch."""
        for name, numbers in self._watched.items():
            given = numbers if isinstance(grads, np.ndarray) else [n for n in numbers if grads[n] is not None]
            if given:
                self.tables[name].watch(partial(self._all_seen, given, bags, grads))

    def _all_seen(
        self, numbers: Sequence[int], bags: Mapping[int, Bag], grads: Sequence[Matrix | None] | Matrix
    ) -> list[Seen]:
        return [self._seen(number, bags[number], grads) for number in numbers]

    def _seen(self, number: int, bag: Bag, grads: Sequence[Matrix | None] | Matrix) -> Seen:
        out, grad = self.outputs[number], self._grad(grads, number)
        assert grad is not None
        return Seen(salted(out.feature, bag.ids) if out.salted else bag.ids, bag, grad)

    def _grad(self, grads: Sequence[Matrix | None] | Matrix, number: int) -> Matrix | None:
        """The gradient of one output's vectors."""
        if not isinstance(grads, np.ndarray):
            return grads[number]
        return grads[:, self._begins[number] : self._begins[number] + self.dims[number]]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        held: list[Table] = []
        try:
            for table in self._by_address:
                table.writer.acquire()
                held.append(table)
            yield
        finally:
            for table in held:
                table.writer.release()


class CollectionStep:
    """A step that was begun with ``Collection.forward``: its vectors, waiting for their gradients."""

    def __init__(
        self,
        collection: Collection,
        vectors: Matrix,
        steps: _core.Steps,
        apart: ApartStep | None = None,
        watched: Mapping[int, Bag] = MappingProxyType({}),
    ) -> None:
        self.vectors = vectors  # (batch, sum of dims) float32
        self._collection: Collection | None = collection  # None once applied
        self._steps = steps
        self._apart = apart
        self._watched = watched  # the bags of outputs whose tables want to know the gradients

    def apply_gradients(self, grads: Sequence[npt.NDArray[np.float32] | None]) -> None:
        """One optimizer step for each unique id of each table: ``grads`` are those of the outputs' vectors.

        Each is (batch, dim) float32, or None where the loss does not use the output, whose ids then get no step. Raises
        before any table is changed: NonFiniteError, and InputError for gradients of another shape or a second call.
        """
        collection = self._unapplied()
        if len(grads) != len(collection.outputs):
            raise InputError(
                f"{len(grads)} gradients for {len(collection.outputs)} outputs: give one, or None, for each"
            )
        checked = [
            _checked(grad, len(self.vectors), dim, out.name)
            for grad, dim, out in zip(grads, collection.dims, collection.outputs, strict=True)
        ]
        self._apply(collection, checked)

    def apply_matrix(self, grads: Matrix) -> None:
        """`apply_gradients` where every output has a gradient: (batch, sum of dims) float32, as ``vectors`` are."""
        collection = self._unapplied()
        checked = _checked(grads, len(self.vectors), sum(collection.dims), "all outputs")
        assert checked is not None
        each = None if collection._as_rows else np.split(checked, np.cumsum(collection.dims)[:-1], axis=1)
        self._apply(collection, checked if each is None else list(each))

    def _unapplied(self) -> Collection:
        if self._collection is None:
            raise InputError(
                "backward ran a second time through the same lookup, and its update is already in the tables: "
                "run forward again for every backward"
            )
        return self._collection

    def _apply(self, collection: Collection, checked: list[Matrix | None] | Matrix) -> None:
        if self._apart is not None:
            assert isinstance(checked, list)
            self._apart.take(checked)
        fused = collection._by_row(checked) if isinstance(checked, list) else checked
        with collection._writing():
            bad = collection._native.backward(fused, self._steps)
        if bad is not None:
            output = collection.outputs[collection._output_of[bad[0]]]
            largest = collection.tables[output.table].largest_gradient
            raise NonFiniteError(_nonfinite_text(output, bad[1], largest))
        if self._apart is not None:
            self._apart.apply()
        if self._watched:
            collection._tell(self._watched, checked)
        self._collection = None
        if len(collection._spare) < _SPARE_STEPS:
            collection._spare.append(self._steps)


_SPARE_STEPS = 2


def _keys_of(table: Embedding, out: Output) -> Keys | None:
    """How ids become keys, where native code does not do all of it; None: it does."""
    if table is table.one_table:
        return None
    name = out.feature
    return (lambda ids: table.keys(name, salted(name, ids))) if out.salted else (lambda ids: table.keys(name, ids))


def _checked(
    grad: npt.NDArray[np.float32] | None, samples: int, dim: int, output: str
) -> npt.NDArray[np.float32] | None:
    """The gradient with the columns of a row next to each other; how far rows lie apart does not matter."""
    if grad is None:
        return None
    if grad.dtype != np.float32 or grad.shape != (samples, dim):
        raise InputError(
            f"the gradient of {output!r} is {grad.dtype} of shape {grad.shape}, this step needs float32 of shape "
            f"(samples, dim) = ({samples}, {dim})"
        )
    return grad if dim == 1 or grad.strides[1] == grad.itemsize else np.ascontiguousarray(grad)


def _nonfinite_text(output: Output, number: int, largest: float) -> str:
    return (
        f"a gradient of table {output.table!r} (feature {output.feature!r}, id number {number} of the batch) holds "
        f"NaN, infinity or a size above {largest:g}, or its sum with its repeats does; no table was changed: lower the "
        f"learning rate, or set on_nonfinite to skip_row or clip"
    )
