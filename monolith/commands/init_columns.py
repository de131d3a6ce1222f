"""What a column is: identifiers, a quantity, a text, a bag, a vector; and the figures that settings are chosen by."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["int", "string", "float", "bool", "ints", "strings", "vector", "none"]

_IDS = re.compile(r"(^|_)(id|ids|key|code|hash|zip|uid|no|num|number)$|[a-z0-9]I[dD]s?$|^\w*(ID|Id)$")
_QUANTITY = re.compile(
    r"(^|_)(age|price|cost|count|cnt|n|amount|score|duration|length|width|height|depth|weight|size|rank|position|total|"
    r"qty|quantity|views|clicks|days|hours|minutes|seconds|secs|ms|year|rate|ratio|share|avg|mean|sum|min|max|distance)"
    r"(_|$)",
    re.IGNORECASE,
)
_LARGEST_ID = 2**63 - 1
_MOST_ODD = 0.01  # share of values of another type that are odd ones rather than a reason to leave the column out
_FEW = 50  # different integers, at most, that are categories rather than a quantity


@dataclass(frozen=True)
class Column:
    """One column or feature, as the sample shows it."""

    name: str
    kind: Kind
    rows: int
    missing: int
    distinct: int  # different values; of bags, of their elements
    once: int  # of them, those that are there once
    width: int = 1  # of a vector
    low: float = 0.0  # of numbers
    high: float = 0.0
    mean: float = 0.0  # after the transform that `is_skewed` asks for
    std: float = 0.0
    is_skewed: bool = False  # no negative numbers, and the largest are many times the usual ones
    odd: int = 0  # values of another type than nearly all: the records that have them will be refused
    note: str = ""  # why no feature can be made of it

    @property
    def is_ids(self) -> bool:
        """Whether a table reads it."""
        return self.kind in ("int", "string", "ints", "strings")

    @property
    def is_bag(self) -> bool:
        """Whether a row has any number of ids."""
        return self.kind in ("ints", "strings")

    @property
    def once_share(self) -> float:
        """Share of the different ids that are there once."""
        return self.once / self.distinct if self.distinct else 0.0


def look(name: str, values: Sequence[Any]) -> Column:
    """What the column ``name`` with these ``values`` is."""
    given = [v for v in values if v is not None and not (isinstance(v, float) and math.isnan(v))]
    missing = len(values) - len(given)
    kind = _kind(given)
    if kind == "none" and (usual := _usual(given)):
        column = look(name, [*usual, *([None] * missing)])
        return replace(column, rows=len(values), odd=len(given) - len(usual))
    if kind == "none":
        note = "no value in the sample" if not given else f"values of several types, such as {_types(given)}"
        return Column(name, kind, len(values), missing, 0, 0, note=note)
    if kind == "vector":
        return _vector(name, values, given, missing)
    singles = [e for v in given for e in v] if kind in ("ints", "strings") else given
    if kind in ("int", "ints") and max(singles, default=0) > _LARGEST_ID:
        note = f"has {max(singles)}, which fits no 64 bits with a sign: write the column as strings, or as int64"
        return Column(name, "none", len(values), missing, 0, 0, note=note)
    counts = Counter(singles)
    once = sum(count == 1 for count in counts.values())
    if kind == "float" and all(float(v).is_integer() for v in given):
        kind = "int"  # integers beside missing values are often stored so
    if kind == "int" and is_quantity(name, given, len(counts)):
        kind = "float"
    column = Column(name, kind, len(values), missing, len(counts), once)
    if len(counts) < 2 and not column.is_bag:
        return Column(name, "none", len(values), missing, len(counts), once, note="the same value everywhere")
    return _with_figures(column, [float(v) for v in given]) if kind == "float" else column


def is_quantity(name: str, values: Sequence[Any], distinct: int) -> bool:
    """Whether integers are rather a number of something than names of things: by the column's name and their number."""
    if _IDS.search(name) or distinct <= _FEW:
        return False
    return bool(_QUANTITY.search(name)) or any(v < -1 for v in values)  # -1 often says that there is none


def _kind(given: Sequence[Any]) -> Kind:
    types = {type(v) for v in given}
    if types <= {int, float} and types:
        return "int" if types == {int} else "float"
    if types == {bool}:
        return "bool"
    if types == {str}:
        return "string"
    if types == {list}:
        return _kind_of_lists(given)
    if types == {dict} and all(isinstance(w, int | float) for v in given for w in v.values()):
        return "strings"
    return "none"


def _usual(given: Sequence[Any]) -> list[Any]:
    """The values of the type that nearly all have; none where no type is that of nearly all, or all have one."""
    groups = [float if type(v) is int else type(v) for v in given]
    most, count = Counter(groups).most_common(1)[0] if groups else (None, 0)
    odd = len(given) - count
    return [v for v, group in zip(given, groups, strict=True) if group is most] if 0 < odd <= _MOST_ODD * count else []


def _kind_of_lists(given: Sequence[list[Any]]) -> Kind:
    inside = {type(e) for v in given for e in v if e is not None}
    if inside == {int}:
        return "ints"
    if inside == {str}:
        return "strings"
    return "vector" if inside and inside <= {int, float} else "none"


def _vector(name: str, values: Sequence[Any], given: Sequence[list[float]], missing: int) -> Column:
    widths = {len(v) for v in given}
    if len(widths) == 1 and None not in {e for v in given for e in v}:
        return Column(name, "vector", len(values), missing, 0, 0, width=widths.pop())
    note = f"lists of numbers of several lengths, {min(widths)} to {max(widths)}, or with nulls in them"
    return Column(name, "none", len(values), missing, 0, 0, note=note)


def _with_figures(column: Column, values: list[float]) -> Column:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return Column(column.name, "none", column.rows, column.missing, 0, 0, note="no finite number in the sample")
    low, high = min(finite), max(finite)
    middle = statistics.median(finite)
    is_skewed = low >= 0 and high > 20 * max(middle, 1e-9) and high > 10
    shaped = [math.log1p(v) for v in finite] if is_skewed else finite
    mean, std = statistics.fmean(shaped), statistics.pstdev(shaped)
    figures = {"low": low, "high": high, "mean": _rounded(mean), "std": _rounded(std) or 1.0, "is_skewed": is_skewed}
    return Column(column.name, "float", column.rows, column.missing, column.distinct, column.once, **figures)  # type: ignore[arg-type]


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def _types(given: Sequence[Any]) -> str:
    return " and ".join(sorted({type(v).__name__ for v in given})[:3])
