"""What a model card and a graph make of questions: from names and feature values to rows, from rows to probabilities.

Knows nothing of where rows come from: ``gather`` is handed in, and answers from one version. A prediction goes in
pieces of bounded size: values become ids piece by piece, all rows are then gathered at once, since they must be of one
version, and scored piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.card import CardFeature, ModelCard
from monolith.echo import shown
from monolith.errors import EventError, InputError
from monolith.events import FeatureValue
from monolith.serving.ledger import Version
from monolith.serving.pieces import Pieces
from monolith.serving.predictor import Predictor, Weights
from monolith.tables.features import Bag, FeatureEncoder
from monolith.tables.hashing import salted
from monolith.tables.pooling import pool

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Request = tuple[str, Ids]  # table, ids (n,)
Sample = Mapping[str, FeatureValue]

_BAGS = (list, dict)
PIECE_SAMPLES = 256
PIECE_VALUES = 4096  # or one sample's


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one question needs of the model, all of it of one version."""

    version: Version
    rows: list[Values]  # (n, dim) a request, in their order
    weights: Weights  # of the dense part; empty unless asked for


Bags = dict[str, Bag]
Gather = Callable[[Sequence[Request], bool], Gathered]  # requests, whether the weights are wanted too


@dataclass(frozen=True, slots=True)
class Rows:
    """Embeddings and the version that they are of."""

    version: Version
    values: Values  # (n, dim); an id without a row has zeros, or the row that it shares


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probabilities and the version that they are of."""

    version: Version
    probabilities: npt.NDArray[np.float32]  # (n,)


class Inference:
    """One card and graph. Immutable: any thread may call it."""

    def __init__(self, card: ModelCard, graph: bytes, where: str) -> None:
        self.card = card
        self.graph = graph
        self._where = where
        self._features = {feature.name: feature for feature in card.features}
        self._encoder = FeatureEncoder(card.features, ignore_unknown=card.ignore_unknown)
        self._predictor = Predictor(graph, list(self._features), where) if graph else None

    def lookup(self, name: str, values: Sequence[FeatureValue] | Ids, gather: Gather) -> Rows:
        """Rows of a table's ids, or of a feature's values.

        An array of integers for a table's name is ids as the table has them, unless a salted feature has the same
        name. Raises InputError (unknown name, a value of another type).
        """
        gathered = gather([self._request(name, values)], False)
        return Rows(gathered.version, gathered.rows[0])

    def predict(self, samples: Iterable[Sequence[Sample]], gather: Gather) -> Pieces[Prediction]:
        """One probability a sample, whose missing features count as empty. Samples come some at a time.

        Raises InputError for a bad sample, and for one whose probability is not a number.
        """
        if self._predictor is None:
            raise InputError(f"model {self.card.model!r} in {self._where} has no graph: it can look up, not predict")
        encoded, before = [], 0
        for some in samples:
            for first, last in _cut(some, before):
                encoded.append(self._encode(some[first:last], before + first))
                yield
            before += len(some)
        gathered = gather([self._joined(name, encoded) for name in self._features], True)
        scores, starts = [np.zeros(0, np.float32)], dict.fromkeys(self._features, 0)
        for bags in encoded:
            yield
            vectors = dict(self._vectors(bags, gathered.rows, starts))
            scores.append(self._predictor.predict(vectors, gathered.weights))
        probabilities = np.concatenate(scores)
        self._refuse_non_finite(probabilities)
        return Prediction(gathered.version, probabilities)

    def _encode(self, samples: Sequence[Sample], first: int) -> Bags:
        """Bags of the features of ``samples``, the first of which has that number in the whole request."""
        for number, sample in enumerate(samples, first):
            try:
                self._encoder.validate(sample)
            except EventError as error:
                raise EventError(error.reason, f"sample {number}: {error.detail}") from None
        return self._encoder.encode(samples)

    def _joined(self, name: str, encoded: Sequence[Bags]) -> Request:
        ids = np.concatenate([np.zeros(0, np.int64), *(bags[name].ids for bags in encoded)])
        return self._salt(name, ids)

    def _vectors(self, bags: Bags, rows: Sequence[Values], starts: dict[str, int]) -> Iterator[tuple[str, Values]]:
        """Each feature's vectors. ``rows`` are the request's; those of these bags begin at ``starts``, which moves."""
        for (name, feature), all_rows in zip(self._features.items(), rows, strict=True):
            bag, start = bags[name], starts[name]
            starts[name] = start + len(bag.ids)
            yield name, np.ascontiguousarray(pool(all_rows[start : starts[name]], bag, feature.pooling))

    def _refuse_non_finite(self, probabilities: npt.NDArray[np.float32]) -> None:
        if not np.isfinite(probabilities).all():
            numbers = np.flatnonzero(~np.isfinite(probabilities))
            raise InputError(
                f"model {self.card.model!r} in {self._where} gives no number for {len(numbers)} of "
                f"{len(probabilities)} samples, first sample {numbers[0]}: send smaller weights; if they are small, "
                f"inspect the model"
            )

    def _request(self, name: str, values: Sequence[FeatureValue] | Ids) -> Request:
        feature = self._features.get(name)
        if name not in self.card.tables and feature is None:
            known = sorted({*self.card.tables, *self._features})
            raise InputError(f"model {self.card.model!r} has no table or feature {shown(name)}, it has {known}")
        if name in self.card.tables and not (feature and feature.salted):
            ids = _as_ids(values)
            if ids is not None:
                return name, ids
        if feature is None:
            raise InputError(f"table {name!r} takes a list of 64-bit integer ids, not {shown(values)}")
        return self._salt(name, self._encode_each(feature, values))

    def _encode_each(self, feature: CardFeature, values: Sequence[FeatureValue] | Ids) -> Ids:
        """One id a value, of a bag feature as well."""
        try:
            listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
        except TypeError as error:
            raise InputError(f"feature {feature.name!r} takes a list of values, not {shown(values)}") from error
        if None in listed:
            raise InputError(f"feature {feature.name!r}: value {listed.index(None)} is null, which has no row")
        samples = [{feature.name: [value] if feature.bag else value} for value in listed]
        return self._encoder.encode(samples)[feature.name].ids

    def _salt(self, name: str, ids: Ids) -> Request:
        feature = self._features[name]
        return feature.table, salted(name, ids) if feature.salted else ids


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
