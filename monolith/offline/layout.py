"""Tables of each kind, as large as a number of bytes allows: `num_bytes` of all of them, index included, is at most it.

Rows are divided among the features in proportion to how many values each has in the training part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from monolith.config.kinds import MAX_ROWS
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables.kinds import new_embedding

Sized = Callable[[Sequence[TableConfig], Mapping[str, int], float], list[TableConfig]]  # by rows a value

_STEPS = 24  # halvings of the rows a value
_LARGEST = 16.0  # rows a value; more would change next to nothing


def _shared(kind: str) -> Sized:
    """A table of ``kind`` for each feature, with rows in proportion to its values."""

    def tables(base: Sequence[TableConfig], values: Mapping[str, int], scale: float) -> list[TableConfig]:
        return [
            msgspec.structs.replace(table, kind=kind, rows=_rows(values[table.feature_names()[0]], scale))
            for table in base
        ]

    return tables


def _cafe(base: Sequence[TableConfig], values: Mapping[str, int], scale: float) -> list[TableConfig]:
    """A table for each feature; every second row is one that a hot id may have for its own."""

    def table_of(table: TableConfig) -> TableConfig:
        rows = max(2, _rows(values[table.feature_names()[0]], scale))
        return msgspec.structs.replace(table, kind="cafe", rows=rows - rows // 2, own_rows=rows // 2)

    return [table_of(table) for table in base]


def _unified(base: Sequence[TableConfig], values: Mapping[str, int], scale: float) -> list[TableConfig]:
    """One table for all features; tables of width 1, which models add up, may not share rows and are hashed."""
    wide = [table for table in base if table.dim > 1]
    features = [name for table in wide for name in table.feature_names()]
    rows = _rows(sum(values[name] for name in features), scale)
    probes = {name: sum(values[name] > least for least in _PROBES) for name in features}
    shared = [msgspec.structs.replace(wide[0], name="all", features=features, kind="unified", rows=rows, probes=probes)]
    return shared[: len(wide)] + _shared("hashed")([table for table in base if table.dim == 1], values, scale)


_PROBES = (0, 1_000, 100_000)  # a feature of more values than each of these has a probe more


def _rows(values: int, scale: float) -> int:
    return min(MAX_ROWS, max(1, round(values * scale)))


KINDS: Mapping[str, Sized | None] = {  # None: the kind has as many rows as there are ids
    "collisionless": None,
    "hashed": _shared("hashed"),
    "qr": _shared("qr"),
    "cafe": _cafe,
    "unified": _unified,
}


def laid_out(
    kind: str, base: Sequence[TableConfig], values: Mapping[str, int], budget: int | None
) -> list[TableConfig]:
    """``base``, collisionless tables, as tables of ``kind`` that take at most ``budget`` bytes.

    Raises ConfigError for a kind that is none here, and for a budget below the smallest possible, which is named.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no kind {kind!r} in this benchmark; allowed: {', '.join(KINDS)}")
    sized = KINDS[kind]
    if sized is None or budget is None:
        return list(base)
    least = num_bytes(sized(base, values, 0.0))
    if least > budget:
        raise ConfigError(
            f"{budget:,} bytes are too few for {len(base)} tables of kind {kind}: the smallest possible are {least:,}"
        )
    return _largest(sized, base, values, budget)


def _largest(sized: Sized, base: Sequence[TableConfig], values: Mapping[str, int], budget: int) -> list[TableConfig]:
    """The largest that fits; what fits is found by making the tables."""
    widths = sum(values[table.feature_names()[0]] * 4 * table.dim for table in base)
    low, high = 0.0, min(_LARGEST, 1.0 + budget / widths)  # a row takes more than its values
    best = sized(base, values, low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        tables = sized(base, values, middle)
        if num_bytes(tables) <= budget:
            low, best = middle, tables
        else:
            high = middle
    return best


def num_bytes(tables: Sequence[TableConfig]) -> int:
    """What the tables take to answer, as they are made."""
    return sum(new_embedding(table).num_bytes() for table in tables)
