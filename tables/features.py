"""From feature values, as events and requests hold them, to ids: one code for training and for serving.

An integer is its own id. A string's id is its hash, seeded by the feature's name, or, where several features share the
ids of one table, by the table's name, so that equal strings are equal ids there. A missing value is no id at all.
Ids of features that share a table without sharing ids are salted later, by whoever holds the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from types import NoneType
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from monolith.card import CardFeature
from monolith.config import JobConfig, TableConfig
from monolith.echo import clipped, shown
from monolith.errors import ConfigError, EventError, InputError
from monolith.events import FeatureValue
from monolith.tables.hashing import hash_string

_INT64 = np.iinfo(np.int64)
_REMEMBERED = 1 << 14  # hashes of strings, a feature: a hit costs a tenth of a hash
MAX_WEIGHT = 1e6  # beyond it, sums and gradients of float32 overflow sooner or later, and nothing learns any more


@dataclass(frozen=True, slots=True)
class Bag:
    """The ids of one feature in a batch: sample ``i`` has the next ``lengths[i]`` of ``ids``.

    Raises InputError if the lengths are negative or do not add up to the ids, or the weights are not as many.
    """

    ids: npt.NDArray[np.int64]  # (total,)
    lengths: npt.NDArray[np.int32]  # (batch,)
    weights: npt.NDArray[np.float32] | None = None  # (total,); None: every id weighs 1
    one_each: bool = field(init=False)  # every sample has exactly one id

    def __post_init__(self) -> None:
        one_each = len(self.ids) == len(self.lengths) and bool((self.lengths == 1).all())
        object.__setattr__(self, "one_each", one_each)
        if not one_each and (self.lengths.min(initial=0) < 0 or int(self.lengths.sum()) != len(self.ids)):
            raise InputError(
                f"a bag has {len(self.ids)} ids, its lengths add up to {int(self.lengths.sum())} (smallest "
                f"{int(self.lengths.min())}): lengths must be >= 0 and add up to the ids"
            )
        if self.weights is not None and len(self.weights) != len(self.ids):
            raise InputError(f"a bag has {len(self.ids)} ids and {len(self.weights)} weights: give one for each id")


def is_salted(table: TableConfig) -> bool:
    """Whether the table keeps equal ids of its features apart."""
    return len(table.feature_names()) > 1 and not table.shared_ids


def card_features(job: JobConfig) -> list[CardFeature]:
    """The job's input features in table order, as the model card and the encoder want them.

    Raises ConfigError when two tables read the same feature.
    """
    names = Counter(job.feature_names())
    if doubled := [name for name, times in names.items() if times > 1]:
        raise ConfigError(
            f"features {doubled} are read by more than one table of job {job.name!r}, a feature belongs to one: "
            f"declare it twice under two names"
        )
    features = []
    for table in job.tables:
        salted = is_salted(table)
        for name in table.feature_names():
            kind = job.feature(name)
            features.append(
                CardFeature(
                    name=name, table=table.name, type=kind.type, bag=kind.bag, pooling=table.pooling, salted=salted
                )
            )
    return features


class FeatureEncoder:
    """Turns the feature mappings of a batch into one ``Bag`` a feature. Immutable: any thread may call it."""

    def __init__(self, features: Sequence[CardFeature], *, ignore_unknown: bool = False) -> None:
        readers = Counter(feature.table for feature in features if not feature.salted)
        self._ignore_unknown = ignore_unknown
        self._columns = {
            feature.name: _Column(feature, seed=feature.table if readers[feature.table] > 1 else feature.name)
            for feature in features
        }

    def encode(self, rows: Sequence[Mapping[str, FeatureValue]]) -> dict[str, Bag]:
        """One bag a declared feature, over all ``rows``; names that are not declared are not looked at.

        Raises EventError, naming the feature and the row, for a value that ``validate`` would refuse.
        """
        return {name: column.encode([row.get(name) for row in rows]) for name, column in self._columns.items()}

    def validate(self, features: Mapping[str, FeatureValue]) -> None:
        """Raise EventError if ``encode`` would refuse these values, or (unless ignored) a name is not declared."""
        for name, value in features.items():
            column = self._columns.get(name)
            if column is not None:
                column.check(value)
            elif not self._ignore_unknown:
                known = clipped(", ".join(sorted(self._columns)), 240)
                raise EventError(
                    "unknown_feature",
                    f"feature {shown(name)} belongs to no table of the job, which has {known}: "
                    f"add it to a table, or set input.unknown_features to ignore",
                )


class _Column:
    """One feature's rule from values to ids."""

    def __init__(self, feature: CardFeature, seed: str) -> None:
        self._name = feature.name
        self._hash = lru_cache(_REMEMBERED)(partial(hash_string, seed))
        self._is_int = feature.type == "int"
        self._is_bag = feature.bag

    def encode(self, values: list[FeatureValue]) -> Bag:
        """The bag of a whole batch of values."""
        elements: list[object]
        kinds = set(map(type, values))
        if self._is_bag and kinds <= {list, NoneType}:
            elements = list(chain.from_iterable(filter(None, values)))  # type: ignore[arg-type]
            lengths = np.array([len(value) if value else 0 for value in values], np.int32)  # type: ignore[arg-type]
        elif not self._is_bag:
            elements = [value for value in values if value is not None]
            lengths = np.array([value is not None for value in values], np.int32)
        else:
            return self._one_by_one(values)
        if not set(map(type, elements)) <= {int if self._is_int else str}:
            return self._one_by_one(values)  # to name the row of what does not fit
        return Bag(self._whole_column(elements), lengths)

    def check(self, value: FeatureValue) -> None:
        """Raise EventError if ``value`` cannot be turned into ids."""
        if value is None:
            return
        if _is_mapping(value) or isinstance(value, list):
            self._elements(value)
        elif self._is_bag:
            raise self._refusal(value)
        else:
            self._id(value)

    def _whole_column(self, values: list[Any]) -> npt.NDArray[np.int64]:
        if not self._is_int:
            return np.fromiter(map(self._hash, values), np.int64, len(values))
        try:
            return np.array(values, np.int64)
        except OverflowError:
            return np.array([self._id(value) for value in values], np.int64)  # names the one that does not fit

    def _one_by_one(self, values: Sequence[FeatureValue]) -> Bag:
        ids: list[int] = []
        weights: list[float] = []
        lengths = np.zeros(len(values), np.int32)
        weighted = False
        for row, value in enumerate(values):
            try:
                row_ids, row_weights = self._elements(value)
            except EventError as error:
                raise EventError(error.reason, f"row {row}: {error.detail}") from None
            lengths[row] = len(row_ids)
            ids += row_ids
            weights += row_weights or [1.0] * len(row_ids)
            weighted |= bool(row_weights)
        return Bag(np.array(ids, np.int64), lengths, np.array(weights, np.float32) if weighted else None)

    def _elements(self, value: object) -> tuple[list[int], list[float]]:
        """The ids of one value, and its weights if it has them."""
        if value is None:
            return [], []
        if not self._is_bag:
            return [self._id(value)], []
        if isinstance(value, list):
            return [self._id(item) for item in value], []
        if _is_mapping(value):
            return [self._key(key) for key in value], [self._weight(key, value[key]) for key in value]
        raise self._refusal(value)

    def _id(self, value: object) -> int:
        if not self._is_int and isinstance(value, str):
            return self._hash(value)
        if not self._is_int or isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self._refusal(value)
        if not _INT64.min <= value <= _INT64.max:
            raise EventError(
                "feature_range",
                f"feature {self._name!r} has the id {shown(value)}, which does not fit 64 bits with a sign: "
                f"send it as a string, or subtract 2**64 where it is unsigned",
            )
        return int(value)

    def _key(self, key: object) -> int:
        """The id of a mapping's key; JSON has only strings there, so an integer may come as its digits."""
        if self._is_int and isinstance(key, str):
            try:
                key = int(key)
            except ValueError:
                raise self._refusal(key) from None
        return self._id(key)

    def _weight(self, key: object, weight: Any) -> float:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not abs(weight) <= MAX_WEIGHT:  # the second is false for NaN as well
            raise EventError(
                "feature_weight",
                f"feature {self._name!r} weighs {shown(key)} with {shown(weight)}, a weight is a number from "
                f"{-MAX_WEIGHT:.0f} to {MAX_WEIGHT:.0f}: scale the feature's weights down",
            )
        return float(weight)

    def _refusal(self, value: object) -> EventError:
        element = "an integer" if self._is_int else "a string"
        wanted = f"a list of values, each {element}, or a mapping value -> weight" if self._is_bag else element
        return EventError(
            "feature_type",
            f"feature {self._name!r} has {shown(value)} ({type(value).__name__}), it takes {wanted}, or null "
            f"for missing: change the event, or the feature's type and bag in the job file",
        )


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)
