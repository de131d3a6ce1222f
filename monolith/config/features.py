"""What one feature is: its type on the wire, how a number is transformed, what a missing value counts as.

A feature gives either *ids*, which tables read, or *dense* numbers, which the model reads as they are:

    int, string   ids; with ``bag`` any number of them, each with a weight if the event gives weights
    float         dense, ``width`` numbers; with ``boundaries`` an id, the number of the interval
    bool          an id (0 or 1) where a table reads the feature, else dense
    hour, weekday an id made of the event time: 0 to 23, 0 (Monday) to 6; events do not carry it
"""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.limits import Count, Positive

FeatureType = Literal["int", "string", "float", "bool", "hour", "weekday"]
Missing = Literal["empty", "own_row", "dead_letter"]


class _Transform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One step of a transform, told apart in YAML by ``kind``."""


class Log1p(_Transform, frozen=True, tag="log1p"):
    """``sign(x) * ln(1 + |x|)``: counts of any size, negative ones too."""


class Clip(_Transform, frozen=True, tag="clip"):
    """The nearest number from ``min`` to ``max``."""

    min: float | None = None  # smaller numbers become this; None: no limit
    max: float | None = None  # larger numbers become this; None: no limit


class Standardize(_Transform, frozen=True, tag="standardize"):
    """``(x - mean) / std``, with constants that the job gives."""

    mean: float  # taken from the number
    std: Positive  # the number is divided by it


Transform = Log1p | Clip | Standardize


class FeatureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named input. Strings are hashed by name, integers are ids as they are; a list is a bag."""

    name: str  # as events and requests call it
    type: FeatureType = "int"  # on the wire; hour and weekday are made of the event time
    bag: bool = False  # int, string: the event holds a list of values (or a mapping value -> weight)
    width: Count = 1  # float: how many numbers; 1: a number, more: a list of just so many
    transforms: list[Transform] = []  # float: applied in this order, in float64
    boundaries: list[float] = []  # float: ascending; the id is how many of them the number has reached
    missing: Missing = "empty"  # no id (a zero vector), dense: 0 after the transforms; own_row: an id of its own
    default: int | float | str | bool | None = None  # what a missing value counts as, in place of `missing`
    keep_strings: bool = False  # string: what ids stand for is kept beside their rows, see docs/features.md
    utc_offset_h: float = 0.0  # hour, weekday: local time less UTC, in hours
