"""What one feature's settings must satisfy together: which of them a type has a use for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from monolith.config.document import Keys
from monolith.config.features import FeatureConfig

Found = tuple[Keys, str]

_VALUE_OF = {"int": (int,), "string": (str,), "float": (int, float), "bool": (bool,)}


def broken_feature_rules(feature: FeatureConfig, *, is_read: bool) -> Iterator[Found]:
    """Every rule that ``feature`` breaks; ``is_read``: some table reads it, so that it must give ids."""
    yield from _unused(feature)
    yield from _boundaries(feature)
    yield from _default(feature)
    if is_read and feature.type == "float" and not feature.boundaries:
        yield (
            ("type",),
            "a table reads ids, and a float is none: give boundaries, which make an id of it, or take the feature out "
            "of the table, then the model reads the number",
        )
    if feature.keep_strings and not (feature.type == "string" and is_read):
        yield ("keep_strings",), f"strings are kept beside the rows of a table that reads them; saw type {feature.type}"
    if feature.missing == "own_row" and not is_read:
        yield ("missing",), "own_row is an id, and no table reads this feature: give a default"


def _unused(feature: FeatureConfig) -> Iterator[Found]:
    """Settings that would do nothing."""
    is_float, is_time = feature.type == "float", feature.type in ("hour", "weekday")
    if feature.bag and feature.type not in ("int", "string"):
        yield ("bag",), f"a bag holds ids, of type int or string; saw type {feature.type}"
    if feature.width > 1 and (not is_float or feature.boundaries):
        yield ("width",), "only a float without boundaries is a list of numbers"
    if feature.transforms and not is_float:
        yield ("transforms",), f"only a float is transformed; saw type {feature.type}"
    if feature.boundaries and not is_float:
        yield ("boundaries",), f"only a float has boundaries; saw type {feature.type}"
    if feature.utc_offset_h and not is_time:
        yield ("utc_offset_h",), f"only hour and weekday have a local time; saw type {feature.type}"
    if is_time and (feature.missing != "empty" or feature.default is not None):
        yield ("missing",), f"an event always has a time: the type {feature.type} has no missing values"
    if feature.missing != "empty" and feature.default is not None:
        yield ("default",), f"missing values count as {feature.default!r} or as {feature.missing}, not as both"


def _boundaries(feature: FeatureConfig) -> Iterator[Found]:
    if any(not before < after for before, after in pairwise(feature.boundaries)):
        yield ("boundaries",), f"boundaries must rise from one to the next; saw {feature.boundaries}"


def _default(feature: FeatureConfig) -> Iterator[Found]:
    value = feature.default
    if value is None or feature.type not in _VALUE_OF:
        return
    if feature.bag or feature.width > 1:
        yield ("default",), "a list has no default; an absent list is empty, absent numbers are 0"
    elif not isinstance(value, _VALUE_OF[feature.type]) or (isinstance(value, bool) != (feature.type == "bool")):
        yield ("default",), f"a missing value cannot count as {value!r}, which is no {feature.type}"
