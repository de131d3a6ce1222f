"""One feature: which values it takes, and what is packed of them. Every refusal names the feature, reason and value.

There are four kinds of columns: one id, a bag of ids, dense numbers, and an id made of the event time, of which nothing
is packed. `tables.schema` puts the columns of a job together.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from monolith.card import CardFeature
from monolith.config.features import Clip, FeatureConfig, Log1p, Transform
from monolith.echo import shown
from monolith.errors import EventError
from monolith.tables.batch import Floats, Ints
from monolith.tables.hashing import hash_string

MAX_WEIGHT = 1e6  # beyond it, sums and gradients of float32 overflow sooner or later, and nothing learns any more
NO_NUMBER = math.nan  # what is packed for a dense number that is missing

_LEAST_ID, _GREATEST_ID = -(2**63), 2**63 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_REMEMBERED = 1 << 14  # hashes of strings, a feature: a hit costs a tenth of a hash
_OWN_ROW = "\0missing"  # hashed as a string of the feature: the id that missing values have in common
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_THURSDAY = 3  # the weekday of 1970-01-01, Monday being 0

Weighted = tuple[list[int], list[float]]  # ids, and their weights if they have them


class _Packed:
    """What all columns that events carry have in common: names, and the rule for missing values."""

    def __init__(self, feature: CardFeature) -> None:
        self.name = feature.name
        self.config: FeatureConfig = feature.config

    def _present(self, value: Any) -> Any:
        """The value, or what counts as the value where it is missing; None: nothing does."""
        if value is not None:
            return value
        if self.config.default is None and self.config.missing == "dead_letter":
            raise EventError("feature_missing", f"feature {self.name!r} is missing, its rule is missing: dead_letter")
        return self.config.default

    def _refusal(self, value: object, wanted: str) -> EventError:
        return EventError(
            "feature_type",
            f"feature {self.name!r} has {shown(value)} ({type(value).__name__}), it takes {wanted}, or null "
            f"for missing: change the event, or the feature's type and bag in the job file",
        )


class _IdRule(_Packed):
    """From one value to one id."""

    def __init__(self, feature: CardFeature) -> None:
        super().__init__(feature)
        self._hash = lru_cache(_REMEMBERED)(partial(hash_string, feature.seed))
        self._own_row = self._hash(_OWN_ROW) if feature.config.missing == "own_row" else None
        self.id: Callable[[Any], int] = getattr(self, f"_{feature.config.type}_id")  # of one value; raises EventError

    def _int_id(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self._refusal(value, "an integer")
        if not _LEAST_ID <= value <= _GREATEST_ID:
            raise EventError(
                "feature_range",
                f"feature {self.name!r} has the id {shown(value)}, which does not fit 64 bits with a sign: "
                f"send it as a string, or subtract 2**64 where it is unsigned",
            )
        return int(value)

    def _string_id(self, value: object) -> int:
        if not isinstance(value, str):
            raise self._refusal(value, "a string")
        return self._hash(value)

    def _bool_id(self, value: object) -> int:
        if not isinstance(value, bool | np.bool_):
            raise self._refusal(value, "true or false")
        return int(value)

    def _float_id(self, value: object) -> int:
        number = float(transformed(np.float64(self._number(value)), self.config.transforms))
        return bisect_right(self.config.boundaries, number)

    def _number(self, value: object) -> float:
        return checked_number(self, value)


class OneId(_IdRule):
    """At most one id a sample."""

    @property
    def wire(self) -> Any:
        """The type that a value has on the wire; what it takes is a part of what `pack` takes."""
        return {"int": int, "string": str, "bool": bool, "float": float}[self.config.type] | None

    def absent(self) -> int | None:
        """What a sample has of a feature that was not asked for when it came."""
        return self._own_row

    def pack(self, value: object) -> int | None:
        """The id; None: the sample has none."""
        value = self._present(value)
        if value is None or value != value:  # NaN is a missing number
            return self._own_row
        return self.id(value)

    def texts(self, value: Any) -> list[str]:
        """The string that gave the id, of a value that `pack` takes; none where the value is missing."""
        value = self._present(value)
        return [] if value is None else [value]


class IdBag(_IdRule):
    """Any number of ids a sample."""

    @property
    def wire(self) -> Any:
        """See `OneId.wire`."""
        return list[int] | dict[int, float] | None if self.config.type == "int" else list[str] | dict[str, float] | None

    def absent(self) -> Weighted:
        """See `OneId.absent`."""
        return ([], []) if self._own_row is None else ([self._own_row], [])

    def pack(self, value: object) -> Weighted:
        """The ids in their order, and their weights; no weights: every id weighs 1."""
        value = self._present(value)
        if value is None:
            return self.absent()
        if isinstance(value, list | tuple | np.ndarray):
            return [self.id(item) for item in value], []
        if _is_mapping(value):
            return [self._key(key) for key in value], [self._weight(key, value[key]) for key in value]
        element = "an integer" if self.config.type == "int" else "a string"
        raise self._refusal(value, f"a list of values, each {element}, or a mapping value -> weight")

    def texts(self, value: Any) -> list[str]:
        """See `OneId.texts`; of a bag, of each id."""
        return list(self._present(value) or ())

    def _key(self, key: object) -> int:
        """The id of a mapping's key; JSON has only strings there, so an integer may come as its digits."""
        if self.config.type == "int" and isinstance(key, str):
            try:
                key = int(key)
            except ValueError:
                raise self._refusal(key, "integers as keys") from None
        return self.id(key)

    def _weight(self, key: object, weight: Any) -> float:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not abs(weight) <= MAX_WEIGHT:  # the second is false for NaN as well
            raise EventError(
                "feature_weight",
                f"feature {self.name!r} weighs {shown(key)} with {shown(weight)}, a weight is a number from "
                f"{-MAX_WEIGHT:.0f} to {MAX_WEIGHT:.0f}: scale the feature's weights down",
            )
        return float(weight)


class Dense(_Packed):
    """``width`` numbers a sample, packed as they came and transformed a batch at a time."""

    @property
    def wire(self) -> Any:
        """See `OneId.wire`."""
        one = bool if self.config.type == "bool" else float
        return one | None if self.config.width == 1 else list[float | None] | None

    def absent(self) -> list[float]:
        """See `OneId.absent`."""
        return [NO_NUMBER] * self.config.width

    def pack(self, value: object) -> list[float]:
        """The numbers; ``NO_NUMBER`` for those that are missing."""
        value = self._present(value)
        width = self.config.width
        if value is None:
            return self.absent()
        if width == 1:
            return [self._number(value)]
        if not isinstance(value, list | tuple | np.ndarray):
            raise self._refusal(value, f"a list of {width} numbers")
        if len(value) != width:
            raise EventError("feature_width", f"feature {self.name!r} has {len(value)} numbers, its width is {width}")
        return [self._number(item) for item in value]

    def _number(self, value: object) -> float:
        if value is None:
            return NO_NUMBER
        if self.config.type == "bool":
            if not isinstance(value, bool | np.bool_):
                raise self._refusal(value, "true or false")
            return float(value)
        return checked_number(self, value)

    def column(self, packed: npt.NDArray[np.float64]) -> Floats:
        """The dense column (n, width) of packed numbers (n, width); a missing number is 0 there.

        Numbers beyond float32 become its largest, so that one absurd value cannot make a loss infinite.
        """
        missing = np.isnan(packed)
        numbers = transformed(np.where(missing, 0.0, packed), self.config.transforms)
        numbers = np.clip(numbers, -_FLOAT32_MAX, _FLOAT32_MAX)
        numbers[missing] = 0.0
        column: Floats = numbers.astype(np.float32)
        return column


class TimePart:
    """The hour or weekday of the event time, as an id."""

    def __init__(self, feature: CardFeature) -> None:
        self.name = feature.name
        self.config = feature.config

    def ids(self, event_time_ms: Ints) -> Ints:
        """One id a sample: 0 to 23, or 0 (Monday) to 6."""
        local_ms = event_time_ms + round(self.config.utc_offset_h * _HOUR_MS)
        if self.config.type == "hour":
            return local_ms // _HOUR_MS % 24
        return (local_ms // _DAY_MS + _THURSDAY) % 7


PackedColumn = OneId | IdBag | Dense
Column = PackedColumn | TimePart


def column_of(feature: CardFeature) -> Column:
    """The column that the feature's configuration asks for."""
    if feature.config.type in ("hour", "weekday"):
        return TimePart(feature)
    if not feature.reads:
        return Dense(feature)
    return IdBag(feature) if feature.config.bag else OneId(feature)


def transformed(numbers: Any, transforms: Sequence[Transform]) -> Any:
    """Float64 numbers after each transform, in order."""
    for step in transforms:
        if isinstance(step, Log1p):
            numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
        elif isinstance(step, Clip):
            numbers = np.clip(numbers, step.min, step.max) if (step.min, step.max) != (None, None) else numbers
        else:
            numbers = (numbers - step.mean) / step.std
    return numbers


def checked_number(column: _Packed, value: Any) -> float:
    """``value`` as a float. NaN passes, as a missing number; infinity does not."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise column._refusal(value, "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise EventError("feature_range", f"feature {column.name!r} is {shown(value)}, which is not a finite number")
    return number


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)
