"""Candidates of one request: what they share, given once, and what differs, given as columns.

``shared`` maps features to one value each, ``columns`` maps other features to one value a candidate. What comes of them
is, bit for bit, what a sample a candidate with both would give; features of neither count as missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from monolith.echo import shown
from monolith.errors import EventError, InputError
from monolith.events import FeatureValue
from monolith.tables.batch import Bag, Floats
from monolith.tables.columns import Column, Dense, IdBag, OneId, TimePart
from monolith.tables.schema import Columns, FeatureSchema

PIECE_CANDIDATES = 256
PIECE_VALUES = 4096  # or one candidate's

Values = Sequence[FeatureValue] | npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Raises InputError for a feature that is in both, columns of several lengths, and what is no mapping or list."""

    shared: Mapping[str, FeatureValue]
    columns: Mapping[str, Values]

    def __post_init__(self) -> None:
        if not isinstance(self.shared, Mapping) or not isinstance(self.columns, Mapping):
            raise InputError(
                f"candidates are a mapping of shared features and one of columns, not {shown(self.shared)} and "
                f"{shown(self.columns)}"
            )
        if twice := sorted(set(self.shared) & set(self.columns)):
            raise InputError(f"feature {shown(twice[0])} is shared and differs by candidate: give it once")
        lengths = {name: _length(name, values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the candidates' columns have several lengths, {lengths}: give a value a candidate")

    def __len__(self) -> int:
        """The number of candidates."""
        return next((len(values) for values in self.columns.values()), 0)

    def one(self, number: int) -> dict[str, Any]:
        """All features of a candidate."""
        return {**self.shared, **{name: values[number] for name, values in self.columns.items()}}

    def cut(self) -> Iterator[slice]:
        """Pieces of a bounded number of values."""
        bags = [values for values in self.columns.values() if has_bags(values)]
        if not bags:
            yield from (slice(at, at + PIECE_CANDIDATES) for at in range(0, len(self), PIECE_CANDIDATES))
            return
        first, size = 0, 0
        for number in range(len(self)):
            size += sum(len(value) for value in (bag[number] for bag in bags) if isinstance(value, list | dict))
            if number - first + 1 == PIECE_CANDIDATES or size >= PIECE_VALUES:
                yield slice(first, number + 1)
                first, size = number + 1, 0
        if first < len(self):
            yield slice(first, len(self))


def has_bags(values: Values) -> bool:
    """Whether some of a column's values are lists or mappings."""
    return not isinstance(values, np.ndarray) and not {list, dict}.isdisjoint(map(type, values))


def _length(name: str, values: Values) -> int:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        raise InputError(f"column {shown(name)} of the candidates is a list of values, not {shown(values)}")
    return len(values)


def shared_columns(schema: FeatureSchema, candidates: Candidates, event_time_ms: int) -> Columns:
    """The columns of the first candidate, of which all have those that no column of theirs replaces.

    Raises EventError as `FeatureSchema.columns_of` does.
    """
    try:
        return schema.columns_of([candidates.one(0)], np.array([event_time_ms]))
    except EventError as error:
        raise EventError(error.reason, error.detail.replace("sample 0", "candidate 0", 1)) from None


def own_columns(schema: FeatureSchema, candidates: Candidates, piece: slice) -> Columns:
    """The columns of a piece of the candidates, without the shared ones. Raises EventError, naming the candidate."""
    bags: dict[str, Bag] = {}
    dense: dict[str, Floats] = {}
    for name, values in candidates.columns.items():
        column = schema.columns.get(name)
        if column is None or isinstance(column, TimePart):  # ignored, as in a sample
            continue
        part = values[piece]
        if isinstance(column, Dense):
            dense[name] = column.column(_numbers(column, part, piece.start))
        else:
            bags[name] = (
                _ids(column, part, piece.start) if isinstance(column, OneId) else _bag(column, part, piece.start)
            )
    return Columns(bags, dense)


def _numbers(column: Dense, values: Values, first: int) -> npt.NDArray[np.float64]:
    """(n, width), as packed."""
    if column.config.width == 1 and column.config.type != "bool" and _are(values, "f"):
        numbers = np.asarray(values, np.float64)
        if not np.isinf(numbers).any():
            return numbers[:, None]
    return np.array([*_packed(column, values, first)], np.float64).reshape(len(values), column.config.width)


def _ids(column: OneId, values: Values, first: int) -> Bag:
    if column.config.type == "int" and _are(values, "i"):
        return Bag(np.asarray(values, np.int64), np.ones(len(values), np.int32))
    packed = [*_packed(column, values, first)]
    present = np.array([one is not None for one in packed], np.bool_)
    return Bag(np.array([one for one in packed if one is not None], np.int64), present.astype(np.int32))


def _bag(column: IdBag, values: Values, first: int) -> Bag:
    packed = [*_packed(column, values, first)]
    ids = np.array([one for ids, _ in packed for one in ids], np.int64)
    weights = None
    if any(weights for _, weights in packed):
        flat = [weight for ids, weights in packed for weight in weights or [1.0] * len(ids)]
        weights = np.array(flat, np.float64).astype(np.float32)
    return Bag(ids, np.array([len(ids) for ids, _ in packed], np.int32), weights)


def _packed(column: Column, values: Values, first: int) -> Iterator[Any]:
    """What a column packs of each value."""
    assert not isinstance(column, TimePart)
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    for number, value in enumerate(listed, first):
        try:
            yield column.pack(value)
        except EventError as error:
            raise EventError(error.reason, f"candidate {number}: {error.detail}") from None


def _are(values: Values, kind: str) -> bool:
    """Whether all values are 64-bit integers (``i``) or floats (``f``), none of them a bool or missing."""
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind == kind
    if set(map(type, values)) != {int if kind == "i" else float}:
        return False
    numbers = cast(Sequence[int], values)
    return kind == "f" or (min(numbers) >= -(2**63) and max(numbers) < 2**63)
