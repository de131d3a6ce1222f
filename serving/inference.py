"""What a model card and a graph make of questions: from names and feature values to rows, from rows to probabilities.

Knows nothing of where rows come from: ``gather`` is handed in, and answers from one version. A prediction goes in
pieces of bounded size: values become ids piece by piece, all rows are then gathered at once, since they must be of one
version, and scored piece by piece.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from monolith.card import ModelCard, Read
from monolith.echo import shown
from monolith.errors import InputError
from monolith.events import FeatureValue
from monolith.serving.candidates import Candidates, own_columns, shared_columns
from monolith.serving.ledger import Version
from monolith.serving.pieces import Pieces
from monolith.serving.predictor import Predictor, Weights
from monolith.serving.together import FoundRows
from monolith.tables.hashing import salted
from monolith.tables.pooling import pool
from monolith.tables.schema import Columns, FeatureSchema
from monolith.tables.vectors import Request, Vectors, readers_of

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Found = npt.NDArray[np.bool_]
Sample = Mapping[str, FeatureValue]
Asked = tuple[Vectors, Ids]  # what reads the ids, which are salted where it takes them so, and the ids (n,)

_BAGS = (list, dict)
PIECE_SAMPLES = 256
PIECE_VALUES = 4096  # or one sample's


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one question needs of the model, all of it of one version."""

    version: Version
    rows: list[Values]  # (n, dim) a request, in their order
    weights: Weights  # of the dense part; empty unless asked for
    found: list[Found] | None = None  # (n,) a request: which ids have rows of their own; None: not asked for


class Gather(Protocol):
    """Answers requests, with the dense weights and with which ids were found where they are wanted."""

    def __call__(self, requests: Sequence[Request], weights: bool, mask: bool = False) -> Gathered:
        """All of one version."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Embeddings and the version that they are of."""

    version: Version
    values: Values  # (n, dim); an id without a row has zeros, or the row that it shares


@dataclass(frozen=True, slots=True)
class Together:
    """Embeddings of several tables or features, all of one version."""

    version: Version
    rows: dict[str, FoundRows]  # as they were asked for, in that order


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of n samples, by task, and the version that says so."""

    version: Version
    values: dict[str, npt.NDArray[np.float32]]  # task -> (n,); probabilities where its loss is log, else numbers
    is_probability: bool  # there is one task, whose loss is log

    def __len__(self) -> int:
        """The number of samples."""
        return len(next(iter(self.values.values())))

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """(n,), of a model with one binary task. Raises InputError for another one."""
        if not self.is_probability:
            raise InputError(f"the model predicts {', '.join(self.values)}, not one probability: read `values`")
        return next(iter(self.values.values()))


def widest(card: ModelCard) -> int:
    """The most float32 values that an id takes while it is answered: its rows, and the vector if that is another."""
    readers = readers_of(card.tables, card.kinds)
    each = [*readers.values(), *(readers[r.table].of(f.name) for f in card.features for r in f.reads)]
    return max(map(_values_an_id, each), default=0)


def _values_an_id(reader: Vectors) -> int:
    rows = [reader.parts[name] for name, _ in reader.requests(np.zeros(0, np.int64))]
    return reader.dim if len(rows) == 1 else reader.dim + sum(rows)


class Inference:
    """One card and graph. Immutable: any thread may call it."""

    def __init__(self, card: ModelCard, graph: bytes, where: str) -> None:
        self.card = card
        self.graph = graph
        self._where = where
        self._features = {feature.name: feature for feature in card.features}
        self._schema = FeatureSchema(card.features, ignore_unknown=card.ignore_unknown)
        self._outputs = [(feature.name, read) for feature in card.features for read in feature.reads]
        self._readers = readers_of(card.tables, card.kinds)
        inputs = [read.output for _, read in self._outputs] + [f.name for f in card.features if not f.reads]
        self._predictor = Predictor(graph, inputs, where, card.tasks) if graph else None

    def lookup(self, name: str, values: Sequence[FeatureValue] | Ids, gather: Gather) -> Rows:
        """Rows of a table's ids, or of a feature's values.

        An array of integers for a table's name is ids as the table has them, unless a salted feature has the same
        name. Raises InputError (unknown name, a value of another type).
        """
        gathered = self._gathered(gather, [self._request(name, values)], False)
        return Rows(gathered.version, gathered.rows[0])

    def lookup_together(self, questions: Mapping[str, Sequence[FeatureValue] | Ids], gather: Gather) -> Together:
        """`lookup` of several names at once, with which values were found. Raises InputError as it does."""
        requests = [self._request(name, values) for name, values in questions.items()]
        gathered = self._gathered(gather, requests, False, mask=True)
        assert gathered.found is not None
        rows = map(FoundRows, gathered.rows, gathered.found)
        return Together(gathered.version, dict(zip(questions, rows, strict=True)))

    def predict(
        self, samples: Iterable[Sequence[Sample]], gather: Gather, event_time_ms: int | None = None
    ) -> Pieces[Prediction]:
        """One prediction a sample and task, shown at ``event_time_ms`` (ms since the epoch; None: now).

        Raises InputError for a bad sample, and for one whose prediction is not a number.
        """
        predictor, time_ms = self._graph(), _now_ms() if event_time_ms is None else event_time_ms
        encoded, before = [], 0
        for some in samples:
            for first, last in _cut(some, before):
                times_ms = np.full(last - first, time_ms)
                encoded.append(self._schema.columns_of(some[first:last], times_ms, before + first))
                yield
            before += len(some)
        asked = [self._joined(name, read, encoded) for name, read in self._outputs]
        gathered = self._gathered(gather, asked, True)
        scores, starts = [self._no_scores()], dict.fromkeys(self._features, 0)
        for columns in encoded:
            yield
            inputs = columns.dense | dict(self._vectors(columns, gathered.rows, starts, self._outputs))
            scores.append(predictor.predict(inputs, gathered.weights))
        return self._prediction(gathered.version, scores)

    def predict_candidates(
        self, candidates: Candidates, gather: Gather, event_time_ms: int | None = None
    ) -> Pieces[Prediction]:
        """`predict` of samples that share features: these are encoded, looked up and pooled once.

        Raises InputError as `predict` does, naming the candidate.
        """
        predictor, time_ms = self._graph(), _now_ms() if event_time_ms is None else event_time_ms
        if not len(candidates):
            return self._prediction(gather((), False).version, [self._no_scores()])
        shared, encoded = shared_columns(self._schema, candidates, time_ms), []
        for piece in candidates.cut():
            encoded.append(own_columns(self._schema, candidates, piece))
            yield
        once = [(name, read) for name, read in self._outputs if name not in encoded[0].bags]
        each = [(name, read) for name, read in self._outputs if name in encoded[0].bags]
        requests = [self._joined(name, read, [shared]) for name, read in once]
        requests += [self._joined(name, read, encoded) for name, read in each]
        gathered = self._gathered(gather, requests, True)
        rows, starts = gathered.rows, dict.fromkeys(self._features, 0)
        inputs = shared.dense | dict(self._vectors(shared, rows[: len(once)], dict(starts), once))
        scores = [self._no_scores()]
        for piece, columns in zip(candidates.cut(), encoded, strict=True):
            yield
            count = min(piece.stop, len(candidates)) - piece.start
            own = columns.dense | dict(self._vectors(columns, rows[len(once) :], starts, each))
            common = {name: np.repeat(one, count, axis=0) for name, one in inputs.items() if name not in own}
            scores.append(predictor.predict(common | own, gathered.weights))
        return self._prediction(gathered.version, scores)

    def _gathered(self, gather: Gather, asked: Sequence[Asked], weights: bool, mask: bool = False) -> Gathered:
        """As `Gather`, of tables' vectors: the rows that make them are gathered, all at once, and combined."""
        readers = [reader for reader, _ in asked]
        parts = [reader.requests(ids) for reader, ids in asked]
        got = gather([part for of_one in parts for part in of_one], weights, mask)
        rows, found = iter(got.rows), None if got.found is None else iter(got.found)
        vectors = [reader.vectors([next(rows) for _ in of_one]) for reader, of_one in zip(readers, parts, strict=True)]
        whole = None if found is None else [np.logical_and.reduce([next(found) for _ in of_one]) for of_one in parts]
        return Gathered(got.version, vectors, got.weights, whole)

    def _graph(self) -> Predictor:
        if self._predictor is None:
            raise InputError(f"model {self.card.model!r} in {self._where} has no graph: it can look up, not predict")
        return self._predictor

    def _no_scores(self) -> Values:
        return np.zeros((0, len(self.card.tasks)), np.float32)

    def _prediction(self, version: Version, scores: Sequence[Values]) -> Prediction:
        values, tasks = np.concatenate(scores), self.card.tasks
        self._refuse_non_finite(values)
        by_task = {task.name: values[:, place] for place, task in enumerate(tasks)}
        return Prediction(version, by_task, is_probability=[task.loss for task in tasks] == ["log"])

    def _joined(self, name: str, read: Read, encoded: Sequence[Columns]) -> Asked:
        return self._asked(name, read, np.concatenate([np.zeros(0, np.int64), *(c.bags[name].ids for c in encoded)]))

    def _vectors(
        self, columns: Columns, rows: Sequence[Values], starts: dict[str, int], outputs: Sequence[tuple[str, Read]]
    ) -> Iterator[tuple[str, Values]]:
        """The vectors of ``outputs``, whose ``rows`` are the request's; those of ``columns`` begin at ``starts``."""
        for (name, read), all_rows in zip(outputs, rows, strict=True):
            bag, start = columns.bags[name], starts[name]
            yield read.output, np.ascontiguousarray(pool(all_rows[start : start + len(bag.ids)], bag, read.pooling))
        for name, bag in columns.bags.items():
            starts[name] += len(bag.ids)

    def _refuse_non_finite(self, values: npt.NDArray[np.float32]) -> None:
        if not np.isfinite(values).all():
            numbers = np.flatnonzero(~np.isfinite(values).all(axis=1))
            raise InputError(
                f"model {self.card.model!r} in {self._where} gives no number for {len(numbers)} of "
                f"{len(values)} samples, first sample {numbers[0]}: send smaller weights; if they are small, "
                f"inspect the model"
            )

    def _request(self, name: str, values: Sequence[FeatureValue] | Ids) -> Asked:
        read = self._read(name)
        if name in self._readers and not (read and read[1].salted):
            ids = _as_ids(values)
            if ids is not None:
                return self._readers[name], ids
        if read is None:
            raise InputError(f"table {name!r} takes a list of 64-bit integer ids, not {shown(values)}")
        feature, how = read
        try:
            listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
        except TypeError as error:
            raise InputError(f"feature {feature!r} takes a list of values, not {shown(values)}") from error
        if None in listed:
            raise InputError(f"feature {feature!r}: value {listed.index(None)} is null, which has no row")
        return self._asked(feature, how, self._schema.ids_of(feature, listed))

    def _asked(self, feature: str, read: Read, ids: Ids) -> Asked:
        return self._readers[read.table].of(feature), salted(feature, ids) if read.salted else ids

    def _read(self, name: str) -> tuple[str, Read] | None:
        """The feature and its table that ``name`` names: an output, or a feature that one table reads."""
        for feature, read in self._outputs:
            if name in (read.output, feature) and (name == read.output or len(self._features[feature].reads) == 1):
                return feature, read
        if name in self._readers:
            return None
        outputs = [read.output for _, read in self._outputs]
        raise InputError(
            f"model {self.card.model!r} has no table or feature {shown(name)}, it has "
            f"{sorted({*self._readers, *outputs})}"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _cut(samples: Sequence[Sample], before: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) of each piece of ``samples``. Raises InputError for what is no mapping.

    ``before`` is how many samples of the request came before.
    """
    first, values = 0, 0
    for number, sample in enumerate(samples):
        if not isinstance(sample, Mapping):
            raise InputError(f"sample {before + number} is {sample!r:.80}, not a mapping from feature to value")
        values += len(sample)
        for value in sample.values():
            if isinstance(value, _BAGS):
                values += len(value)
        if number - first + 1 == PIECE_SAMPLES or values >= PIECE_VALUES:
            yield first, number + 1
            first, values = number + 1, 0
    if first < len(samples):
        yield first, len(samples)


def _as_ids(values: Sequence[FeatureValue] | Ids) -> Ids | None:
    """``values`` as int64 ids if that is what they are, without rounding or wrapping any."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        return None
    if array.ndim == 1 and array.size == 0:
        return np.zeros(0, np.int64)
    is_ids = array.ndim == 1 and np.can_cast(array.dtype, np.int64, "safe") and array.dtype != np.bool_
    return array.astype(np.int64, copy=False) if is_ids else None
