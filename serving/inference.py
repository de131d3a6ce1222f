"""What a model card and a graph make of questions: from names and feature values to rows, from rows to probabilities.

Knows nothing of where rows come from: ``gather`` is handed in, and answers from one version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.card import CardFeature, ModelCard
from monolith.errors import EventError, InputError
from monolith.events import FeatureValue
from monolith.serving.ledger import Version
from monolith.serving.predictor import Predictor, Weights
from monolith.tables.features import Bag, FeatureEncoder
from monolith.tables.hashing import salted
from monolith.tables.pooling import pool

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Request = tuple[str, Ids]  # table, ids (n,)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one question needs of the model, all of it of one version."""

    version: Version
    rows: list[Values]  # (n, dim) a request, in their order
    weights: Weights  # of the dense part; empty unless asked for


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

    def predict(self, samples: Sequence[Mapping[str, FeatureValue]], gather: Gather) -> Prediction:
        """One probability a sample, whose missing features count as empty.

        Raises InputError for a bad sample, and for one whose probability is not a number.
        """
        if self._predictor is None:
            raise InputError(f"model {self.card.model!r} in {self._where} has no graph: it can look up, not predict")
        self._validate(samples)
        bags = self._encoder.encode(samples)
        gathered = gather([self._salt(name, bags[name].ids) for name in self._features], True)
        vectors = {
            name: self._pooled(name, bags[name], rows) for name, rows in zip(self._features, gathered.rows, strict=True)
        }
        probabilities = self._predictor.predict(vectors, gathered.weights)
        self._refuse_non_finite(probabilities)
        return Prediction(gathered.version, probabilities)

    def _validate(self, samples: Sequence[Mapping[str, FeatureValue]]) -> None:
        for number, sample in enumerate(samples):
            try:
                self._encoder.validate(sample)
            except EventError as error:
                raise EventError(error.reason, f"sample {number}: {error.detail}") from None

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
            raise InputError(f"model {self.card.model!r} has no table or feature {name!r}, it has {known}")
        if name in self.card.tables and not (feature and feature.salted):
            ids = _as_ids(values)
            if ids is not None:
                return name, ids
        if feature is None:
            raise InputError(f"table {name!r} takes a list of 64-bit integer ids, not {values!r:.80}")
        return self._salt(name, self._encode_each(feature, values))

    def _encode_each(self, feature: CardFeature, values: Sequence[FeatureValue] | Ids) -> Ids:
        """One id a value, of a bag feature as well."""
        listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
        if None in listed:
            raise InputError(f"feature {feature.name!r}: value {listed.index(None)} is null, which has no row")
        samples = [{feature.name: [value] if feature.bag else value} for value in listed]
        return self._encoder.encode(samples)[feature.name].ids

    def _salt(self, name: str, ids: Ids) -> Request:
        feature = self._features[name]
        return feature.table, salted(name, ids) if feature.salted else ids

    def _pooled(self, name: str, bag: Bag, rows: Values) -> Values:
        return np.ascontiguousarray(pool(rows, bag, self._features[name].pooling))


def _as_ids(values: Sequence[FeatureValue] | Ids) -> Ids | None:
    """``values`` as int64 ids if that is what they are, without rounding or wrapping any."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    is_ids = array.ndim == 1 and np.can_cast(array.dtype, np.int64, "safe") and array.dtype != np.bool_
    return array.astype(np.int64, copy=False) if is_ids else None
